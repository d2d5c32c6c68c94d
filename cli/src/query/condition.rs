//! Conditions on the command line.
//!
//! Owns: the forms `dimension=a,b`, `dimension!=a,b` and `dimension^=prefix`; they are those of `GET /v1/query`.
//! Does not own: which dimensions there are.

use tidemark_proto::v1;

/// Parses a condition. A value that has a comma can be asked for only by its prefix.
///
/// # Errors
/// Says what would be valid.
pub(crate) fn parse(text: &str) -> Result<v1::Filter, String> {
    let malformed = || {
        format!(
            "{text:?} is no condition: write dimension=value,value or dimension!=value,value or dimension^=prefix"
        )
    };
    let (left, value) = text.split_once('=').ok_or_else(malformed)?;
    let dimension = left.trim_end_matches(['!', '^']);
    if dimension.is_empty() {
        return Err(malformed());
    }
    // No value at all is the empty value: "not set".
    let values = || value.split(',').map(str::to_owned).collect();
    let filter = v1::Filter { dimension: dimension.to_owned(), ..v1::Filter::default() };
    match &left[dimension.len()..] {
        "" => Ok(v1::Filter { r#in: values(), ..filter }),
        "!" => Ok(v1::Filter { not_in: values(), ..filter }),
        "^" => Ok(v1::Filter { prefix: Some(value.to_owned()), ..filter }),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(dimension: &str) -> v1::Filter {
        v1::Filter { dimension: dimension.to_owned(), ..v1::Filter::default() }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_condition_has_one_of_three_forms() {
        assert_eq!(
            parse("device=mobile,tablet").unwrap(),
            v1::Filter { r#in: texts(&["mobile", "tablet"]), ..filter("device") }
        );
        assert_eq!(parse("country!=DE").unwrap(), v1::Filter { not_in: texts(&["DE"]), ..filter("country") });
        assert_eq!(
            parse("url^=/list?a=1,2").unwrap(),
            v1::Filter { prefix: Some("/list?a=1,2".to_owned()), ..filter("url") }
        );
    }

    #[test]
    fn no_value_is_the_value_that_is_not_set() {
        assert_eq!(parse("campaign=").unwrap(), v1::Filter { r#in: texts(&[""]), ..filter("campaign") });
    }

    #[test]
    fn what_has_another_form_is_refused() {
        for text in ["", "device", "=mobile", "!=mobile", "device^!=x"] {
            assert!(parse(text).expect_err(text).contains("dimension!=value"));
        }
    }
}
