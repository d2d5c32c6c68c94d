//! Answers as CSV (RFC 4180).
//!
//! Owns: a header of the columns, and a record for each row; what is not set is an empty field. Texts are as they are.
//! Does not own: the facts: CSV has no place for them, so whoever writes it says beside it whether it is complete.

use csv::{Terminator, WriterBuilder};
use tidemark_proto::v1;
use v1::value::Kind;

/// The CSV form of an answer.
pub fn answer_to_csv(answer: &v1::Answer) -> Vec<u8> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).flexible(true).from_writer(Vec::new());
    // A vector takes everything, and records may have any length: nothing can fail.
    let _ = writer.write_record(&answer.columns);
    for row in &answer.rows {
        let _ = writer.write_record(row.values.iter().map(field));
    }
    writer.into_inner().unwrap_or_default()
}

fn field(value: &v1::Value) -> String {
    match &value.kind {
        None => String::new(),
        Some(Kind::Text(text)) => text.clone(),
        Some(Kind::Integer(integer)) => integer.to_string(),
        Some(Kind::Number(number)) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(rows: Vec<Vec<Option<Kind>>>) -> v1::Answer {
        let row = |values: Vec<Option<Kind>>| v1::Row {
            values: values.into_iter().map(|kind| v1::Value { kind }).collect(),
        };
        v1::Answer {
            columns: vec!["url".into(), "views".into(), "load_ms.mean".into()],
            rows: rows.into_iter().map(row).collect(),
            facts: None,
        }
    }

    #[test]
    fn a_header_and_a_line_for_each_row_with_nothing_where_there_is_no_number() {
        let rows = vec![
            vec![Some(Kind::Text("/a,\"b\"\n".into())), Some(Kind::Integer(u64::MAX)), None],
            vec![Some(Kind::Text("=1+1".into())), Some(Kind::Integer(0)), Some(Kind::Number(1.5))],
        ];
        let csv = String::from_utf8(answer_to_csv(&answer(rows))).unwrap();
        assert_eq!(
            csv,
            "url,views,load_ms.mean\r\n\"/a,\"\"b\"\"\n\",18446744073709551615,\r\n=1+1,0,1.5\r\n"
        );
    }

    proptest! {
        #[test]
        fn every_text_reads_back(texts in prop::collection::vec(".*", 1..9)) {
            let row = |text: &String| vec![Some(Kind::Text(text.clone())), Some(Kind::Integer(1)), None];
            let csv = answer_to_csv(&answer(texts.iter().map(row).collect()));
            let mut reader = csv::Reader::from_reader(csv.as_slice());
            let read: Vec<String> = reader.records().map(|record| record.unwrap()[0].to_owned()).collect();
            prop_assert_eq!(read, texts);
        }
    }
}
