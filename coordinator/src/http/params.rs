//! A question as query parameters.
//!
//! Owns: the spelling of `GET /v1/query?...`.
//! Does not own: what a question may ask (`tidemark_rollup::query`).
//!
//! The names are those of the JSON body. Lists are separated by commas, or the parameter is repeated:
//! `site=example.com&measures=views,visitors&groupBy=url&from=-1h&limit=10`.
//!
//! A filter is one parameter of its own, named `filter` and repeated for several; all of them must hold:
//!
//! | form | lets through |
//! | --- | --- |
//! | `filter=device=mobile,tablet` | these values (`in`) |
//! | `filter=device!=mobile,tablet` | all but these (`notIn`) |
//! | `filter=url^=/news/` | values that start so (`prefix`) |
//! | `filter=campaign=` | values that are not set |
//!
//! A value that has a comma can be asked for only in a body or by its prefix.

use crate::error::ApiError;
use axum::extract::Query;
use axum::http::Uri;
use tidemark_proto::v1;

/// The parameters of a request, in their order.
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
        pairs.map(|Query(pairs)| Self(pairs)).map_err(|error| ApiError::invalid(error.body_text()))
    }
}

impl IntoIterator for Pairs {
    type Item = (String, String);
    type IntoIter = std::vec::IntoIter<(String, String)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The question that these parameters ask.
pub(crate) fn question(pairs: impl IntoIterator<Item = (String, String)>) -> Result<v1::Query, ApiError> {
    let mut question = v1::Query::default();
    let mut limit = String::new();
    for (name, value) in pairs {
        match name.as_str() {
            "site" => set(&mut question.site, name, value)?,
            "from" => set(&mut question.from, name, value)?,
            "to" => set(&mut question.to, name, value)?,
            "granularity" => set(&mut question.granularity, name, value)?,
            "orderBy" | "order_by" => set(&mut question.order_by, name, value)?,
            "versus" => set(&mut question.versus, name, value)?,
            "limit" => set(&mut limit, name, value)?,
            "measures" => question.measures.extend(list(&value)),
            "groupBy" | "group_by" => question.group_by.extend(list(&value)),
            "filter" => question.filters.push(filter(&value)?),
            _ => {
                let known =
                    "site, from, to, granularity, measures, groupBy, filter, orderBy, limit and versus";
                return Err(ApiError::invalid_field(name, format!("is no parameter: give {known}")));
            }
        }
    }
    if !limit.is_empty() {
        let no_number = |_| ApiError::invalid_field("limit", format!("{limit:?} is no whole number"));
        question.limit = limit.parse().map_err(no_number)?;
    }
    Ok(question)
}

/// Sets what can be given only once.
pub(super) fn set(field: &mut String, name: String, value: String) -> Result<(), ApiError> {
    if !field.is_empty() {
        return Err(ApiError::invalid_field(name, "is there twice: give it once"));
    }
    *field = value;
    Ok(())
}

fn list(value: &str) -> impl Iterator<Item = String> {
    value.split(',').filter(|part| !part.is_empty()).map(str::to_owned)
}

fn filter(text: &str) -> Result<v1::Filter, ApiError> {
    let form = "write dimension=value,value or dimension!=value or dimension^=prefix";
    let malformed = || ApiError::invalid_field("filter", format!("{text:?} is no filter: {form}"));
    let (left, value) = text.split_once('=').ok_or_else(malformed)?;
    // An empty list of values is the empty value: "not set".
    let values = || value.split(',').map(str::to_owned).collect();
    let filter = |dimension: &str| v1::Filter { dimension: dimension.to_owned(), ..v1::Filter::default() };
    Ok(if let Some(dimension) = left.strip_suffix('!') {
        v1::Filter { not_in: values(), ..filter(dimension) }
    } else if let Some(dimension) = left.strip_suffix('^') {
        v1::Filter { prefix: Some(value.to_owned()), ..filter(dimension) }
    } else {
        v1::Filter { r#in: values(), ..filter(left) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question_of(query: &str) -> Result<v1::Query, ApiError> {
        question(Pairs::of(&format!("/v1/query?{query}").parse().unwrap())?)
    }

    fn list_of(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn every_name_of_the_body_is_a_parameter() {
        let question = question_of(
            "site=s.de&from=-1h&to=now&granularity=5m&measures=views,visitors&measures=load_ms.p95&groupBy=url,device\
             &orderBy=views&limit=10&versus=7d",
        );
        let expected = v1::Query {
            site: "s.de".into(),
            from: "-1h".into(),
            to: "now".into(),
            granularity: "5m".into(),
            measures: list_of(&["views", "visitors", "load_ms.p95"]),
            group_by: list_of(&["url", "device"]),
            filters: Vec::new(),
            order_by: "views".into(),
            limit: 10,
            versus: "7d".into(),
        };
        assert_eq!(question.unwrap(), expected);
    }

    #[test]
    fn filters_have_three_forms_and_may_be_escaped() {
        let question = question_of(
            "filter=device=mobile,tablet&filter=country!=DE&filter=url%5E%3D%2Fa%3Db%2Cc&filter=campaign=",
        );
        let filters = question.unwrap().filters;
        assert_eq!(
            (filters[0].dimension.as_str(), &filters[0].r#in),
            ("device", &list_of(&["mobile", "tablet"]))
        );
        assert_eq!((filters[1].dimension.as_str(), &filters[1].not_in), ("country", &list_of(&["DE"])));
        assert_eq!((filters[2].dimension.as_str(), filters[2].prefix.as_deref()), ("url", Some("/a=b,c")));
        assert_eq!(filters[3].r#in, list_of(&[""]));
    }

    #[test]
    fn a_parameter_that_cannot_be_is_named() {
        for (query, field, hint) in [
            ("sites=s.de", "sites", "site, from"),
            ("limit=many", "limit", "whole number"),
            ("site=a&site=b", "site", "twice"),
            ("filter=device", "filter", "dimension!=value"),
        ] {
            let error = question_of(query).expect_err(query);
            assert_eq!(error.field.as_deref(), Some(field));
            assert!(error.message.contains(hint), "{}", error.message);
        }
    }
}
