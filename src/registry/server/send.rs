//! Requests of pushes: any method, a body, and the place that the server has named for an upload.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    super::{
        answer::{Answer, Body, Moving, empty},
        challenge::Challenge,
        error::{Error, Kind},
    },
    Reached, Server,
    place::Place,
    request,
};

/// An older token is renewed before a body is sent, since a body cannot be sent twice. By the specification,
/// tokens are valid for at least a minute.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(30);

/// The target of a request.
#[derive(Clone, Debug)]
pub(in crate::registry) enum At {
    /// The server itself.
    Root,
    /// Within the repository: `blobs/uploads/`.
    Repository(String),
    /// The place that the server has named.
    Place(Place),
}

impl Server {
    /// Checks that the server can be reached and accepts the login, as far as a request to its root shows.
    pub(in crate::registry) async fn greet(&mut self) -> Result<(), Error> {
        let answer = self.send(&Method::GET, &At::Root, &HeaderMap::new()).await?;
        let is_wrong = answer.status == StatusCode::UNAUTHORIZED || answer.status.is_server_error();
        if is_wrong { Err(answer.refusal().await) } else { Ok(()) }
    }

    /// Sends a request without a body; returns any answer. Redirects are followed for GET and HEAD.
    pub(in crate::registry) async fn send(
        &mut self,
        method: &Method,
        at: &At,
        headers: &HeaderMap,
    ) -> Result<Answer, Error> {
        match self.path_of(at) {
            Ok(path) => {
                let (reached, answer) = self.ask(method, &path, headers).await?;
                if !method.is_safe() {
                    return Ok(answer);
                }
                self.redirected(&reached, answer, method, &path, headers).await
            }
            Err(place) => {
                let reached = self.reached().await?;
                self.send_to(&reached, method, place, headers, empty(), None).await
            }
        }
    }

    /// The same with a body. `moving` says whether the body is still being sent.
    pub(in crate::registry) async fn send_body(
        &mut self,
        method: &Method,
        at: &At,
        headers: &HeaderMap,
        body: Body,
        moving: &Moving,
    ) -> Result<Answer, Error> {
        let mut reached = self.reached().await?;
        if let Some((challenge, given)) = reached.challenge.clone()
            && given.elapsed() > TOKEN_AGE_MAX
            && matches!(challenge, Challenge::Bearer { .. })
        {
            reached.authorization = self.authorize(&reached, &challenge).await?;
            reached.challenge = Some((challenge, Instant::now()));
            self.reached = Some(reached.clone());
        }
        match self.path_of(at) {
            Ok(path) => {
                let authorization = reached.authorization.as_ref();
                let request = request(method, &path, headers, authorization, body)?;
                self.call(&reached, None, request, Some(moving)).await
            }
            Err(place) => self.send_to(&reached, method, place, headers, body, Some(moving)).await,
        }
    }

    /// Gets the authorization that the headers of a 401 to a request with a body ask for. Whether the body may be sent
    /// again.
    pub(in crate::registry) async fn authorize_again(&mut self, refused: &HeaderMap) -> Result<bool, Error> {
        let mut reached = self.reached().await?;
        self.authorize_for(&mut reached, refused).await
    }

    /// The path of a request to the server itself, or the place elsewhere.
    fn path_of<'a>(&self, at: &'a At) -> Result<String, &'a Place> {
        match at {
            At::Root => Ok(format!("{}/v2/", self.endpoint.prefix)),
            At::Repository(what) => Ok(format!("{}/v2/{}/{what}", self.endpoint.prefix, self.path)),
            At::Place(place) => match &self.reached {
                Some(reached) if reached.origin == place.origin => Ok(place.path.clone()),
                _ => Err(place),
            },
        }
    }

    async fn send_to(
        &self,
        reached: &Reached,
        method: &Method,
        place: &Place,
        headers: &HeaderMap,
        body: Body,
        moving: Option<&Moving>,
    ) -> Result<Answer, Error> {
        self.check_tls(reached, &place.origin)?;
        let request = request(method, &place.path, headers, None, body)?;
        self.hop(reached, &place.origin, request, moving).await
    }

    /// The place that an answer to a request at `at` names.
    pub(in crate::registry) fn place(&self, at: &At, answer: &Answer) -> Result<Place, Error> {
        let unset = || Error::new(Kind::Misled, "it does not say where an upload continues");
        let reached = self.reached.as_ref().ok_or_else(unset)?;
        let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(unset)?;
        let (origin, path) = match at {
            At::Place(place) => (&place.origin, place.path.clone()),
            At::Root | At::Repository(_) => (&reached.origin, "/".to_owned()),
        };
        let from = Reached { origin: origin.clone(), ..reached.clone() };
        let place = Place::to(&from, &path, location)?;
        self.check_tls(reached, &place.origin)?;
        Ok(place)
    }
}
