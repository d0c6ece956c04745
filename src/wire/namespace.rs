//! Namespaces in the API.

use super::v1;
use crate::names::Namespace;

impl From<&Namespace> for v1::Namespace {
    fn from(namespace: &Namespace) -> Self {
        Self {
            job: namespace.job().name().to_owned(),
            run: namespace.run().to_owned(),
            issuer: namespace.job().issuer().map(ToString::to_string).unwrap_or_default(),
        }
    }
}
