//! The numbers that a query reads from measures.
//!
//! Owns: which number a reading is, and how numbers order rows.
//! Does not own: measures (`measure`), answers (`answer`).

use crate::measure::MeasureColumn;
use crate::query::Reading;
use tidemark_proto::v1::value::Kind;

/// Reads a number of a row.
pub(crate) fn read(column: &MeasureColumn, row: usize, reading: Reading) -> Option<Kind> {
    match column {
        MeasureColumn::Integers(values) => Some(Kind::Integer(values[row])),
        MeasureColumn::Uniques(sets) => Some(Kind::Integer(sets[row].count())),
        MeasureColumn::Distributions(distributions) => {
            let distribution = &distributions[row];
            match reading {
                Reading::Quantile(quantile) => distribution.quantile(quantile).map(Kind::Integer),
                Reading::Max => distribution.max().map(Kind::Integer),
                Reading::Mean => distribution.mean().map(Kind::Number),
                Reading::Count | Reading::Value => Some(Kind::Integer(distribution.count())),
            }
        }
    }
}

/// A number that orders rows as the readings of their measures do; one that is not there comes first.
pub(crate) fn order_key(number: Option<Kind>) -> u64 {
    match number {
        None | Some(Kind::Text(_)) => 0,
        Some(Kind::Integer(integer)) => integer.saturating_add(1),
        // The bits of floats that are not negative are in the order of the floats.
        Some(Kind::Number(number)) => number.max(0.0).to_bits().saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_keys_are_in_the_order_of_the_numbers() {
        let integers =
            [None, Some(0), Some(1), Some(1 << 60)].map(|number| order_key(number.map(Kind::Integer)));
        let floats =
            [None, Some(0.0), Some(0.25), Some(1e9)].map(|number| order_key(number.map(Kind::Number)));
        assert!(integers.is_sorted_by(|a, b| a < b) && floats.is_sorted_by(|a, b| a < b));
    }
}
