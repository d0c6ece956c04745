//! The place to which a registry sends wharfd.

use http::Uri;

use super::{
    super::{
        error::{Error, Kind},
        reach::Origin,
    },
    Reached,
};

/// The place to which a registry sends wharfd: a path at an origin.
#[derive(Clone, Debug)]
pub(in crate::registry) struct Place {
    pub(super) origin: Origin,
    pub(super) path: String,
}

impl Place {
    /// Adds `name=value` to the query.
    pub(in crate::registry) fn add_query(&mut self, pair: &str) {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        self.path = format!("{}{joint}{pair}", self.path);
    }

    /// Reads a URL, or a path on the server that names it.
    pub(super) fn to(from: &Reached, path: &str, url: &str) -> Result<Self, Error> {
        let bad = || Error::new(Kind::Misled, "its answer names an address that is not the URL of a server");
        let uri: Uri = url.split('#').next().unwrap_or_default().parse().map_err(|_| bad())?;
        let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let Some(authority) = uri.authority() else {
            // A registry's path begins at the root.
            let rooted = !path.is_empty() && target.starts_with('/') && uri.scheme().is_none();
            let here = Self { origin: from.origin.clone(), path: target.to_owned() };
            return rooted.then_some(here).ok_or_else(bad);
        };
        let origin =
            Origin::parse(uri.scheme_str().unwrap_or_default(), authority.as_str()).ok_or_else(bad)?;
        Ok(Self { origin, path: target.to_owned() })
    }
}
