//! Credentials that came with a call.

use std::{future::Future, pin::Pin};

use crate::{
    engine::admission::CredentialSource,
    fault::Fault,
    names::{Login, Secret},
    wire::v1,
};

/// The credentials of one registry, or none. Kept in memory while the call lives.
#[derive(Clone, Debug)]
pub(super) struct Presented(Option<(String, Login)>);

impl Presented {
    /// Checks credentials from the wire.
    pub(super) fn from_wire(credentials: Option<v1::RegistryCredentials>) -> Result<Self, Fault> {
        let Some(v1::RegistryCredentials { host, username, password, identity_token }) = credentials else {
            return Ok(Self(None));
        };
        if host.is_empty() {
            return Err(Fault::invalid("credentials.host", "the credentials name no registry"));
        }
        let (password, identity_token) = (Secret::new(password), Secret::new(identity_token));
        Ok(Self(Some((host, Login { username, password, identity_token }))))
    }

    /// The login for `host`. Another registry's password is not for this one.
    pub(super) fn of(&self, host: &str) -> Option<&Login> {
        self.0.as_ref().filter(|(own, _)| own == host).map(|(_, login)| login)
    }
}

impl CredentialSource for Presented {
    fn credentials<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Login>, Fault>> + Send + 'a>> {
        Box::pin(std::future::ready(Ok(self.of(host).cloned())))
    }
}
