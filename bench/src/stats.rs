//! Medians and what goes with them.

/// The value below which the share `q` (0 to 1) of `sorted` lies, interpolated between the two
/// nearest; none where there are none.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * to_f64(last);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let index = at as usize;
    let low = sorted.get(index)?;
    let high = sorted.get(index + 1).unwrap_or(low);
    Some(low + (high - low) * (at - to_f64(index)))
}

/// A median, and between what the middle half of the values lies.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// How many values there are.
    pub count: usize,
    /// The median.
    pub median: f64,
    /// A quarter of the values is below.
    pub q1: f64,
    /// A quarter of the values is above.
    pub q3: f64,
}

impl Summary {
    /// Of these values; none where there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            median: quantile(&sorted, 0.5)?,
            q1: quantile(&sorted, 0.25)?,
            q3: quantile(&sorted, 0.75)?,
        })
    }

    /// The interquartile range as a share of the median; 0 where that is 0.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 {
            0.0
        } else {
            (self.q3 - self.q1) / self.median
        }
    }
}

/// The ratios of `values` to those of the same round in `base`, or of the medians where they are not
/// of the same rounds. None where there is nothing to compare, or a base is 0.
#[must_use]
pub fn ratios(values: &[f64], base: &[f64]) -> Option<Summary> {
    let is_paired = values.len() == base.len();
    let pairs: Vec<(f64, f64)> = if is_paired {
        values.iter().copied().zip(base.iter().copied()).collect()
    } else {
        vec![(Summary::of(values)?.median, Summary::of(base)?.median)]
    };
    if pairs.iter().any(|(_, base)| *base == 0.0) {
        return None;
    }
    let ratios: Vec<f64> = pairs.iter().map(|(value, base)| value / base).collect();
    Summary::of(&ratios)
}

/// Counts as numbers to reckon with; exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "no count comes near 2^53")]
#[must_use]
pub fn to_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(actual: Option<f64>, expected: f64) {
        let actual = actual.expect("a value");
        assert!(
            (actual - expected).abs() < 1e-9,
            "{actual} is not {expected}"
        );
    }

    #[test]
    fn quantile_between_two_values_is_interpolated() {
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (q, expected) in [
            (0.0, 1.0),
            (0.25, 2.0),
            (0.5, 4.0),
            (0.625, 6.0),
            (1.0, 16.0),
        ] {
            assert_close(quantile(&values, q), expected);
        }
        assert_close(quantile(&[7.0], 0.99), 7.0);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn summary_of_unsorted_values_is_that_of_sorted_ones() {
        let summary = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).expect("values");
        let expected = Summary {
            count: 5,
            median: 3.0,
            q1: 2.0,
            q3: 4.0,
        };
        assert_eq!(summary, expected);
        assert_close(Some(summary.spread()), 2.0 / 3.0);
    }

    #[test]
    fn spread_of_zeros_is_zero() {
        let summary = Summary::of(&[0.0, 0.0]).expect("values");
        assert_close(Some(summary.spread()), 0.0);
    }

    #[test]
    fn ratios_of_rounds_cancel_what_both_share() {
        // The machine was twice as fast in the second round, and again in the third.
        let ratios = ratios(&[90.0, 180.0, 360.0], &[100.0, 200.0, 400.0]).expect("ratios");
        assert_close(Some(ratios.median), 0.9);
        assert_close(Some(ratios.q3 - ratios.q1), 0.0);
    }

    #[test]
    fn ratio_of_other_rounds_is_that_of_medians() {
        let ratios = ratios(&[10.0, 30.0, 20.0], &[40.0]).expect("a ratio");
        assert_close(Some(ratios.median), 0.5);
        assert_eq!(ratios.count, 1);
    }

    #[test]
    fn ratio_to_nothing_is_none() {
        for (values, base) in [
            (&[1.0][..], &[0.0][..]),
            (&[1.0], &[]),
            (&[], &[]),
            (&[], &[1.0]),
        ] {
            assert_eq!(ratios(values, base), None, "{values:?} to {base:?}");
        }
    }
}
