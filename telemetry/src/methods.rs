//! Which methods there are.
//!
//! Owns: the list of gRPC methods that a call may be counted under, from the services' descriptors.
//! Does not own: counting (`requests`).
//!
//! A call of anything else counts as `other`: whoever makes up paths makes no time series.

use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::collections::HashMap;
use std::sync::Arc;

/// What a method is called that is none of ours.
pub(crate) const OTHER: &str = "other";
/// Every member and coordinator answers this one, too.
const HEALTH: &str = "grpc.health.v1.Health";

/// A method, and whether it is over with one message each way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// Service and method without the package, like `Cluster/QueryPartial`.
    pub(crate) name: Arc<str>,
    pub(crate) is_unary: bool,
}

/// All methods, by their path in a request.
#[derive(Debug)]
pub(crate) struct Methods {
    by_path: HashMap<String, Method>,
    other: Method,
}

impl Default for Methods {
    fn default() -> Self {
        // The descriptors are those of the build; were they damaged, calls would count as other ones.
        let files = FileDescriptorSet::decode(tidemark_proto::DESCRIPTORS).unwrap_or_default().file;
        let mut by_path = HashMap::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let name = format!("{}/{}", service.name(), method.name()).into();
                    let is_unary = !method.client_streaming() && !method.server_streaming();
                    by_path.insert(path, Method { name, is_unary });
                }
            }
        }
        for (method, is_unary) in [("Check", true), ("Watch", false)] {
            let name = format!("Health/{method}").into();
            by_path.insert(format!("/{HEALTH}/{method}"), Method { name, is_unary });
        }
        Self { by_path, other: Method { name: OTHER.into(), is_unary: false } }
    }
}

impl Methods {
    /// The method that is called with this path.
    pub(crate) fn of(&self, path: &str) -> Method {
        self.by_path.get(path).unwrap_or(&self.other).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_methods_have_names_and_everything_else_has_one() {
        let methods = Methods::default();
        let of = |path| (methods.of(path).name.to_string(), methods.of(path).is_unary);
        assert_eq!(of("/tidemark.v1.Cluster/QueryPartial"), ("Cluster/QueryPartial".to_owned(), true));
        assert_eq!(of("/tidemark.v1.Ingest/SendBlocks"), ("Ingest/SendBlocks".to_owned(), false));
        assert_eq!(of("/grpc.health.v1.Health/Check"), ("Health/Check".to_owned(), true));
        for path in ["/tidemark.v1.Cluster/Nothing", "/", "", "/tidemark.v1.Cluster/QueryPartial/"] {
            assert_eq!(of(path).0, OTHER);
        }
    }
}
