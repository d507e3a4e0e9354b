//! Line plots as SVG.

use std::fmt::Write;

/// Size of a plot in user units; the page scales it.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// The frame of the data inside it. The legend is at the right.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 530.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 340.0;
/// Colours that are told apart by most eyes, on white.
const COLOURS: [&str; 9] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5c00", "#56b4e9", "#e69f00", "#555555", "#a0006d"];
/// Markers go by the same order, so that colour is not all that tells lines apart.
const MARKERS: usize = 3;

/// A plot of several lines over common places on the x axis.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    /// What is along the x axis, and the names of its places.
    pub(super) x: (&'static str, Vec<String>),
    /// What is along the y axis.
    pub(super) y: &'static str,
    /// Whether the y axis is logarithmic; else it begins at 0.
    pub(super) logarithmic: bool,
    /// Names, and a value for each place that has one.
    pub(super) lines: Vec<(String, Vec<Option<f64>>)>,
}

impl Plot {
    /// The SVG element; empty if there is nothing to show.
    pub(super) fn svg(&self) -> String {
        let values = self.lines.iter().flat_map(|(_, values)| values.iter().flatten().copied());
        let values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
        let (Some(least), Some(most)) =
            (values.iter().copied().reduce(f64::min), values.iter().copied().reduce(f64::max))
        else {
            return String::new();
        };
        let axis = Axis::new(least, most, self.logarithmic);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             font-family=\"sans-serif\" font-size=\"12\" aria-label=\"{title}\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n",
            title = escape(&self.title)
        );
        self.grid(&axis, &mut svg);
        for (index, (name, values)) in self.lines.iter().enumerate() {
            self.line(index, name, values, &axis, &mut svg);
        }
        svg + "</svg>\n"
    }

    /// The middle of the `index`-th place.
    fn place(&self, index: usize) -> f64 {
        let step = (RIGHT - LEFT) / number(self.x.1.len().max(1));
        LEFT + step * (number(index) + 0.5)
    }

    fn grid(&self, axis: &Axis, svg: &mut String) {
        for tick in axis.ticks() {
            let y = axis.height(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(tick)
            );
        }
        let _ =
            writeln!(svg, "<line x1=\"{LEFT}\" y1=\"{BOTTOM}\" x2=\"{RIGHT}\" y2=\"{BOTTOM}\" stroke=\"#333333\"/>");
        for (index, name) in self.x.1.iter().enumerate() {
            let (x, y) = (self.place(index), BOTTOM + 18.0);
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escape(name));
        }
        let middle = (LEFT + RIGHT) / 2.0;
        let (x_name, y_name) = (escape(self.x.0), escape(self.y));
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{x_name}</text>", BOTTOM + 42.0);
        let middle = (TOP + BOTTOM) / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle})\">{y_name}</text>"
        );
    }

    fn line(&self, index: usize, name: &str, values: &[Option<f64>], axis: &Axis, svg: &mut String) {
        let colour = COLOURS[index % COLOURS.len()];
        let dash = if index >= COLOURS.len() { " stroke-dasharray=\"5 3\"" } else { "" };
        let points = values.iter().enumerate().filter_map(|(place, value)| {
            let value = value.filter(|value| value.is_finite() && *value > 0.0)?;
            Some((self.place(place), axis.height(value), value))
        });
        let points: Vec<(f64, f64, f64)> = points.collect();
        let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        let _ =
            writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>");
        for (x, y, value) in &points {
            let shape = marker(index, *x, *y);
            let _ = writeln!(svg, "<g fill=\"{colour}\">{shape}<title>{}: {}</title></g>", escape(name), short(*value));
        }
        let y = TOP + 18.0 * number(index) + 6.0;
        let x = RIGHT + 24.0;
        let shape = marker(index, x + 12.0, y);
        let _ = writeln!(
            svg,
            "<g fill=\"{colour}\"><line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" \
             stroke-width=\"2\"{dash}/>{shape}</g><text x=\"{}\" y=\"{}\">{}</text>",
            x + 24.0,
            x + 32.0,
            y + 4.0,
            escape(name)
        );
    }
}

fn marker(index: usize, x: f64, y: f64) -> String {
    match index % MARKERS {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\"/>", x - 3.5, y - 3.5),
        _ => format!("<path d=\"M{:.1} {:.1}l4.5 8h-9z\"/>", x, y - 5.0),
    }
}

/// The y axis.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    fn new(least: f64, most: f64, logarithmic: bool) -> Self {
        if !logarithmic {
            let step = step(most);
            return Self { low: 0.0, high: (most / step).ceil() * step, logarithmic };
        }
        // To the next of 1, 2, 5 times a power of ten on both sides.
        let low = ticks_of_decades(least / 10.0, least).last().copied().unwrap_or(least);
        let high = ticks_of_decades(most, most * 10.0).first().copied().unwrap_or(most);
        Self { low, high: high.max(low * 1.01), logarithmic }
    }

    fn height(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        BOTTOM - part * (BOTTOM - TOP)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let all = ticks_of_decades(self.low, self.high);
            // Where the range is wide, the powers of ten are enough.
            let tens: Vec<f64> = all.iter().copied().filter(|tick| is_power_of_ten(*tick)).collect();
            return if all.len() > 12 { tens } else { all };
        }
        let step = step(self.high);
        let mut ticks = vec![0.0];
        while let Some(last) = ticks.last().filter(|last| **last < self.high * 0.999) {
            ticks.push(last + step);
        }
        ticks
    }
}

/// 1, 2, 5 times powers of ten from `low` to `high`.
fn ticks_of_decades(low: f64, high: f64) -> Vec<f64> {
    let near = |one: f64, other: f64| one <= other * (1.0 + 1e-9);
    let mut ticks = Vec::new();
    let mut decade = 10_f64.powf(low.log10().floor());
    while near(decade, high) {
        ticks.extend([1.0, 2.0, 5.0].map(|part| part * decade).into_iter().filter(|t| near(low, *t) && near(*t, high)));
        decade *= 10.0;
    }
    ticks
}

fn is_power_of_ten(value: f64) -> bool {
    let exponent = value.log10();
    (exponent - exponent.round()).abs() < 1e-6
}

/// A step of 1, 2 or 5 times a power of ten that divides up to `most` into 4 to 10 parts.
fn step(most: f64) -> f64 {
    ticks_of_decades(most / 100.0, most / 4.0).last().copied().unwrap_or(1.0)
}

/// A number as short as an axis wants it.
fn short(value: f64) -> String {
    let digits = |value: f64| {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match value {
        v if v >= 1e6 => digits(v / 1e6) + " M",
        v if v >= 1e3 => digits(v / 1e3) + " k",
        v => digits(v),
    }
}

/// Text that is safe inside an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn number(count: usize) -> f64 {
    crate::measure::count(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_enclose_their_values() {
        for (least, most, logarithmic) in [(3.0, 4_200.0, true), (7.0, 7.0, true), (0.5, 93.0, false)] {
            let axis = Axis::new(least, most, logarithmic);
            assert!(axis.low <= least && axis.high >= most, "{} {}", axis.low, axis.high);
            assert!(axis.height(most) >= TOP - 0.1 && axis.height(least) <= BOTTOM + 0.1);
            let ticks = axis.ticks();
            assert!((2..=13).contains(&ticks.len()), "{ticks:?}");
        }
    }

    #[test]
    fn a_plot_shows_every_line_and_no_markup_of_its_names() {
        let plot = Plot {
            title: "a < b".to_owned(),
            x: ("depth", vec!["1".to_owned(), "32".to_owned()]),
            y: "per second",
            logarithmic: true,
            lines: vec![("x&y".to_owned(), vec![Some(1.0), Some(30.0)]), ("z".to_owned(), vec![None, Some(5.0)])],
        };
        let svg = plot.svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(svg.contains("a &lt; b") && svg.contains("x&amp;y"));
        let empty = Plot { lines: Vec::new(), ..plot };
        assert!(empty.svg().is_empty());
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.5, 20.0, 1500.0, 2e6].map(short), ["0.5", "20", "1.5 k", "2 M"]);
    }
}
