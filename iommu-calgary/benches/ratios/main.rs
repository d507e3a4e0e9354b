//! What the tables cost, as ratios to the bare memory accesses underneath, measured in one run.
//!
//! `cargo bench -p iommu-calgary` prints the table of the crate's README. Every pair is measured in turns, so that both
//! sides meet the same weather; a figure is that of its best round. Add words to choose: `fill`, `map`, `translate`,
//! `batch`.

mod batch;
mod fill;
mod map;
mod memory;
mod translate;
mod turns;

/// One line of the table.
struct Row {
    what: String,
    figure: String,
    ratio: f64,
    goal: Goal,
}

#[derive(Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
    None,
}

impl Goal {
    fn show(self, ratio: f64) -> String {
        let (goal, met) = match self {
            Self::AtLeast(bound) => (format!("≥ {bound}"), ratio >= bound),
            Self::AtMost(bound) => (format!("≤ {bound}"), ratio <= bound),
            Self::None => return "–".to_owned(),
        };
        format!("{goal} {}", if met { "met" } else { "MISSED" })
    }
}

type Part = (&'static str, fn() -> Vec<Row>);

fn main() {
    // `cargo test --benches` builds it and calls it without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let parts: [Part; 4] =
        [("fill", fill::rows), ("map", map::rows), ("translate", translate::rows), ("batch", batch::rows)];
    println!("| work | figure | ratio | goal |");
    println!("|---|---|---|---|");
    for (name, rows) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            for Row { what, figure, ratio, goal } in rows() {
                println!("| {what} | {figure} | {ratio:.2} | {} |", goal.show(ratio));
            }
        }
    }
}
