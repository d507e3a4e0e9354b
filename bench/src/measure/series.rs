//! Samples, and the figures made of them.

use std::time::Duration;

use serde::Serialize;

/// One timed stretch of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Operations done.
    pub(crate) operations: u64,
    /// Time in which they were done.
    pub(crate) wall: Duration,
    /// Processor time that the server used meanwhile.
    pub(crate) cpu: Duration,
}

/// The median of several samples and how far they lie apart, in nanoseconds per operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// The median.
    pub(crate) median: f64,
    /// The least sample.
    pub(crate) min: f64,
    /// The greatest sample.
    pub(crate) max: f64,
    /// All samples, in the order they were taken.
    pub(crate) samples: Vec<f64>,
}

impl Figure {
    /// Half the distance between the least and the greatest sample, in parts of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.max - self.min) / 2.0 / self.median
    }

    /// How many times `other` this is: the median of the ratios of samples taken one after the other, so that what
    /// disturbs both for a while does not count.
    pub(crate) fn over(&self, other: &Self) -> f64 {
        let mut ratios: Vec<f64> = self.samples.iter().zip(&other.samples).map(|(one, other)| one / other).collect();
        ratios.sort_by(f64::total_cmp);
        percentile(&ratios, 0.5)
    }
}

/// The samples of one kind of work on one server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    samples: Vec<Sample>,
}

impl Series {
    /// Adds a sample; one without operations is left out.
    pub(crate) fn push(&mut self, sample: Sample) {
        if sample.operations > 0 {
            self.samples.push(sample);
        }
    }

    /// Wall time per operation.
    pub(crate) fn wall(&self) -> Figure {
        self.figure(|sample| sample.wall)
    }

    /// Server processor time per operation.
    pub(crate) fn cpu(&self) -> Figure {
        self.figure(|sample| sample.cpu)
    }

    fn figure(&self, of: impl Fn(&Sample) -> Duration) -> Figure {
        let each = self.samples.iter().map(|sample| nanoseconds(of(sample)) / count(sample.operations));
        let samples: Vec<f64> = each.collect();
        let mut each = samples.clone();
        each.sort_by(f64::total_cmp);
        Figure {
            median: percentile(&each, 0.5),
            min: each.first().copied().unwrap_or(f64::NAN),
            max: each.last().copied().unwrap_or(f64::NAN),
            samples,
        }
    }
}

/// The value below which `part` (0 to 1) of the ascending `values` lie, interpolated; NaN without values.
pub(crate) fn percentile(values: &[f64], part: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let place = part.clamp(0.0, 1.0) * count(last as u64);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the number of values")]
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    values[below] + (values[above] - values[below]) * (place - place.floor())
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// `number` as a float; counts here are far below 2^53.
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between() {
        assert_eq!(percentile(&[1.0, 2.0, 4.0, 8.0], 0.5), 3.0);
        assert_eq!(percentile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(percentile(&[5.0], 0.99), 5.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn figures_are_per_operation() {
        let mut series = Series::default();
        for micros in [30, 10, 20] {
            let wall = Duration::from_micros(micros);
            series.push(Sample { operations: 10, wall, cpu: wall / 2 });
        }
        let wall = series.wall();
        assert_eq!((wall.median, wall.min, wall.max), (2000.0, 1000.0, 3000.0));
        assert_eq!(wall.samples, [3000.0, 1000.0, 2000.0]);
        assert_eq!(series.cpu().median, 1000.0);
        assert_eq!(series.wall().over(&series.cpu()), 2.0);
    }

    #[test]
    fn a_ratio_is_of_neighbours() {
        let figure = |samples: &[f64]| Figure { median: 0.0, min: 0.0, max: 0.0, samples: samples.to_vec() };
        // Disturbed in the second round and in the third.
        assert_eq!(figure(&[4.0, 40.0, 4.0]).over(&figure(&[2.0, 20.0, 1.0])), 2.0);
    }
}
