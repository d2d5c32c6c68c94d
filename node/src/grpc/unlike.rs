//! Questions that this node's schema does not fit, while dimensions and measures are added member by member.
//!
//! Owns: telling them from malformed ones, and what is answered: never zeroes, which would look like numbers.
//! Does not own: reading questions (`tidemark_rollup::query`), who is asked instead (the coordinator).

use tidemark_proto::SCHEMA_METADATA;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::query::{QueryError, UnknownName};
use tidemark_rollup::scan::DimensionOfBucket;
use tidemark_rollup::schema::Schema;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// What a node answers to a question that it cannot read.
pub(super) fn unreadable(error: &QueryError, id: &NodeId) -> Status {
    match &error.unknown {
        Some(unknown) => lacks(unknown, id),
        None => Status::invalid_argument(format!("{error} (on node {id})")),
    }
}

/// Whether this node means the same by measures as the asker, who spells them as a schema does.
pub(super) fn check_meanings(measures: &[String], schema: &Schema, id: &NodeId) -> Result<(), Status> {
    for theirs in measures {
        let name = theirs.split('=').next().unwrap_or_default();
        let Some(ours) = schema.measure(name).map(ToString::to_string) else {
            return Err(lacks(&UnknownName::Measure(name.to_owned()), id));
        };
        if ours != *theirs {
            let message = format!("the schema of node {id} has {ours}, and the question is about {theirs}");
            return Err(status(message, name));
        }
    }
    Ok(())
}

/// Whether this node has these dimensions: of one that it lacks it would find no values.
pub(super) fn check_dimensions(of: &[DimensionOfBucket], schema: &Schema, id: &NodeId) -> Result<(), Status> {
    match of.iter().find(|of| schema.dimension_index(&of.dimension).is_none()) {
        Some(of) => Err(lacks(&UnknownName::Dimension(of.dimension.clone()), id)),
        None => Ok(()),
    }
}

fn lacks(unknown: &UnknownName, id: &NodeId) -> Status {
    status(format!("the schema of node {id} has no {unknown} yet"), unknown.name())
}

fn status(message: String, name: &str) -> Status {
    let mut status = Status::new(Code::FailedPrecondition, message);
    // Names of a schema are plain letters; whoever asks for others is told so by the message alone.
    if let Ok(name) = MetadataValue::try_from(name) {
        status.metadata_mut().insert(SCHEMA_METADATA, name);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_proto::v1;
    use tidemark_rollup::query::Query;
    use tidemark_rollup::time::{BucketStart, EventTime};

    fn id() -> NodeId {
        NodeId::new("n2").unwrap()
    }

    fn asked(change: impl FnOnce(&mut v1::Query)) -> Status {
        let mut wire = v1::Query { site: "a.example".to_owned(), ..v1::Query::default() };
        change(&mut wire);
        let now = EventTime::from_unix_ms(1_790_000_000_000);
        unreadable(&Query::parse(&wire, &Schema::default(), now).unwrap_err(), &id())
    }

    fn named(status: &Status) -> &str {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        status.metadata().get(SCHEMA_METADATA).unwrap().to_str().unwrap()
    }

    #[test]
    fn a_name_that_the_schema_lacks_is_told_from_a_malformed_question() {
        let likes = asked(|query| query.measures = vec!["likes".to_owned()]);
        assert_eq!(
            (likes.message(), named(&likes)),
            ("the schema of node n2 has no measure likes yet", "likes")
        );
        let colour = asked(|query| query.group_by = vec!["colour".to_owned()]);
        assert_eq!(colour.message(), "the schema of node n2 has no dimension colour yet");
        assert_eq!(named(&colour), "colour");
        let malformed = asked(|query| query.granularity = "2m".to_owned());
        assert_eq!(malformed.code(), Code::InvalidArgument);
        assert!(malformed.metadata().get(SCHEMA_METADATA).is_none());
    }

    #[test]
    fn a_measure_that_means_something_else_here_is_not_answered() {
        let check = |measure: &str| check_meanings(&[measure.to_owned()], &Schema::default(), &id());
        assert!(check("views=count(view)").is_ok());
        let other = check("views=count(visit)").unwrap_err();
        assert_eq!(named(&other), "views");
        assert!(
            other.message().ends_with("has views=count(view), and the question is about views=count(visit)")
        );
        assert_eq!(named(&check("likes=count(like)").unwrap_err()), "likes");
    }

    #[test]
    fn a_census_of_a_dimension_that_the_schema_lacks_is_not_taken() {
        let of = |dimension: &str| DimensionOfBucket {
            site: "a.example".to_owned(),
            bucket: BucketStart::containing(EventTime::EPOCH),
            dimension: dimension.to_owned(),
        };
        let check = |of: &[DimensionOfBucket]| check_dimensions(of, &Schema::default(), &id());
        assert!(check(&[of("country"), of("device")]).is_ok());
        assert_eq!(named(&check(&[of("country"), of("colour")]).unwrap_err()), "colour");
    }
}
