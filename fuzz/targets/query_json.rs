//! Questions: the body of `POST /v1/query`, or, after a question mark, the parameters of `GET /v1/query`.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tidemark_coordinator::fuzzing;
use tidemark_fuzz::counting::NOW;
use tidemark_rollup::query::Query;
use tidemark_rollup::schema::Schema;

static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::default);

fuzz_target!(|input: &[u8]| {
    let question = match input.strip_prefix(b"?") {
        Some(parameters) => std::str::from_utf8(parameters).ok().and_then(fuzzing::question_of_parameters),
        None => fuzzing::question(input),
    };
    let Some(question) = question else { return };
    let Ok(query) = Query::parse(&question, &SCHEMA, NOW) else { return };
    assert!(query.from < query.to && query.order_by < query.measures.len());
    // What a coordinator passes on to nodes is what it was asked.
    assert_eq!(Query::parse(&query.to_wire(), &SCHEMA, NOW).as_ref(), Ok(&query));
    let (step, _) = (query.step_of(query.from), query.running_from());
    assert_eq!(step, query.step_of(query.from));
    _ = (query.versus_until(), query.versus_range(), query.active_from());
});
