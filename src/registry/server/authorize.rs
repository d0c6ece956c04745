//! The authorization that a server asks for: a login, or a token of the token server that it names.

use std::time::Instant;

use http::{HeaderMap, HeaderValue, header};

use super::{
    super::{
        auth::{self, TokenRequest},
        challenge::{Challenge, challenges},
        error::{Error, Kind},
        reach::Origin,
    },
    Access, Reached, Server,
    place::Place,
};
use crate::names::printable;

/// A real token has some kilobytes.
const TOKEN_BYTES_MAX: usize = 1 << 20;

impl Server {
    /// Gets the authorization that the headers of a 401 ask for. Whether there is one, and so the request may be sent again.
    pub(super) async fn authorize_for(
        &mut self,
        reached: &mut Reached,
        refused: &HeaderMap,
    ) -> Result<bool, Error> {
        let values = refused.get_all(header::WWW_AUTHENTICATE);
        let wanted = challenges(values.iter().filter_map(|value| value.to_str().ok())).into_iter().next();
        let Some(challenge) = wanted else { return Ok(false) };
        let Some(authorization) = self.authorize(reached, &challenge).await? else { return Ok(false) };
        reached.authorization = Some(authorization);
        reached.challenge = Some((challenge, Instant::now()));
        self.reached = Some(reached.clone());
        Ok(true)
    }

    /// The authorization for a challenge: the login itself, or a token for the login; `None` if there is no login.
    pub(super) async fn authorize(
        &self,
        reached: &Reached,
        challenge: &Challenge,
    ) -> Result<Option<HeaderValue>, Error> {
        match challenge {
            Challenge::Basic => {
                let may_see = reached.origin.secure || reached.insecure;
                let login = self.login.as_ref().filter(|login| may_see && !login.username.is_empty());
                Ok(login.and_then(|login| auth::basic(&login.username, login.password.expose())))
            }
            Challenge::Bearer { realm, service } => {
                let actions = match self.access {
                    Access::Pull => "pull",
                    Access::Push => "pull,push",
                };
                let scope = format!("repository:{}:{actions}", self.path);
                let hop = Place::to(reached, "", realm)?;
                if !self.may_see_login(reached, &hop.origin) {
                    let shown = printable(&hop.origin.authority());
                    let text = format!("wharfd does not use its token server {shown}, which has no TLS");
                    return Err(Error::new(Kind::Misled, text));
                }
                let login = self.login.as_ref();
                let token = TokenRequest { service: service.as_deref(), scope: &scope, login };
                let answer = self.hop(reached, &hop.origin, token.request(&hop.path)?, None).await?;
                if answer.status.is_redirection() {
                    return Err(Error::new(Kind::Misled, "its token server sends wharfd elsewhere"));
                }
                let answer = answer.ok().await.map_err(denied)?;
                Ok(Some(auth::bearer(&answer.read("its token", TOKEN_BYTES_MAX).await?)?))
            }
        }
    }

    /// Whether wharfd may use a token server: it sees the login, and returns the token that stands for it.
    fn may_see_login(&self, reached: &Reached, realm: &Origin) -> bool {
        realm.secure || (reached.insecure && self.is_insecure_hop(reached, realm))
    }
}

/// If a token server gives no token, it refuses the login, whatever status it uses.
fn denied(error: Error) -> Error {
    match error.kind() {
        Kind::Denied | Kind::NotFound | Kind::Other => error.of_kind(Kind::Unauthorized),
        _ => error,
    }
}
