//! The report as one page that needs nothing else.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::plot::escape;
use super::plots::plots;
use super::{Comparison, Look, files_table, iommu_table, ratio_table};
use crate::failure::Failure;

const STYLE: &str = "body{font-family:sans-serif;max-width:1500px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
pre{overflow-x:auto;background:#f6f6f6;padding:1em;font-size:13px;line-height:1.4}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(600px,1fr));gap:1em}\
svg{width:100%;height:auto;border:1px solid #ddd}";

/// Writes `index.html`, one SVG file for each plot, and `report.json` into `folder`; returns the page's path.
pub(crate) fn write_page(report: &Comparison, folder: &Path) -> Result<PathBuf, Failure> {
    let failed = |cause: std::io::Error| Failure::system(format!("write the report into {}", folder.display()), cause);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut drawn = String::new();
    for (index, plot) in plots(report).iter().enumerate() {
        let svg = plot.svg();
        if !svg.is_empty() {
            std::fs::write(folder.join(format!("plot-{:02}.svg", index + 1)), &svg).map_err(failed)?;
            drawn += &svg;
        }
    }
    let json = serde_json::to_string_pretty(report).map_err(|cause| failed(cause.into()))?;
    std::fs::write(folder.join("report.json"), json).map_err(failed)?;
    let path = folder.join("index.html");
    std::fs::write(&path, page(report, &drawn)).map_err(failed)?;
    Ok(path)
}

fn page(report: &Comparison, drawn: &str) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    let _ = writeln!(page, "<title>calgaryd beside its peers</title><style>{STYLE}</style></head><body>");
    let _ = writeln!(page, "<h1>calgaryd beside its peers</h1>\n<p>{}.</p>", escape(&report.environment.to_string()));
    page += "<p>Each figure is the median of several samples, taken turn about; the primary one is the server's \
             processor time per operation. Differences under 25 % for files and 10 % for the IOMMU are noise.</p>\n";
    let _ = writeln!(page, "<h2>Ratios</h2>\n<pre>{}</pre>", escape(&ratio_table(report, Look::Plain)));
    let _ = writeln!(page, "<h2>Plots</h2>\n<div class=\"plots\">\n{drawn}</div>");
    let _ = writeln!(page, "<h2>Files</h2>\n<pre>{}</pre>", escape(&files_table(&report.files, Look::Plain)));
    let _ = writeln!(page, "<h2>IOMMU</h2>\n<pre>{}</pre>", escape(&iommu_table(&report.iommu, Look::Plain)));
    page + "</body></html>\n"
}
