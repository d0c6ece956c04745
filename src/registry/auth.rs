//! Logins: the credentials shown to a registry or its token server, and requests for tokens.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use serde::Deserialize;

use super::{
    answer::{Body, empty, full},
    error::{Error, Kind},
};
use crate::names::{Login, Secret};

/// The client id that wharfd gives to a token server.
const CLIENT_ID: &str = "wharf";

/// A request to a token server. The request's path and query are added last.
pub(super) struct TokenRequest<'a> {
    pub(super) service: Option<&'a str>,
    pub(super) scope: &'a str,
    pub(super) login: Option<&'a Login>,
}

impl TokenRequest<'_> {
    /// The request, to be sent to `path`: a GET (the distribution's token specification), or, with an
    /// identity token, a POST (its OAuth2 specification).
    pub(super) fn request(&self, path: &str) -> Result<Request<Body>, Error> {
        let mut fields = Vec::new();
        fields.extend(self.service.map(|service| ("service", service)));
        fields.push(("scope", self.scope));
        let identity = self.login.map(|login| login.identity_token.expose().as_str());
        let built = match (identity.filter(|token| !token.is_empty()), self.login) {
            (Some(token), _) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT_ID),
                    ("refresh_token", token),
                ]);
                Request::builder()
                    .method(Method::POST)
                    .uri(path)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(full(form(&fields)))
            }
            (None, login) => {
                let mut request = Request::builder().method(Method::GET);
                if let Some(login) = login.filter(|login| !login.username.is_empty()) {
                    fields.push(("account", &login.username));
                    if let Some(value) = basic(&login.username, login.password.expose()) {
                        request = request.header(header::AUTHORIZATION, value);
                    }
                }
                let joint = if path.contains('?') { '&' } else { '?' };
                request.uri(format!("{path}{joint}{}", form(&fields))).body(empty())
            }
        };
        built.map_err(|cause| {
            Error::new(Kind::Other, "its token server has no valid address").caused_by(cause)
        })
    }
}

/// `Basic …`.
pub(super) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// `Bearer …`, with the token in a token server's answer.
pub(super) fn bearer(answer: &[u8]) -> Result<HeaderValue, Error> {
    #[derive(Deserialize)]
    struct Token {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
    }

    let read: Option<Token> = serde_json::from_slice(answer).ok();
    let given = |token: &Option<String>| token.clone().filter(|token| !token.is_empty());
    let token = read.and_then(|read| given(&read.token).or_else(|| given(&read.access_token)));
    let token = token.map(Secret::new);
    let value = token.and_then(|token| sensitive(&format!("Bearer {}", token.expose())));
    value.ok_or_else(|| Error::new(Kind::Unavailable, "its token server gives no token"))
}

/// The secrets in a request with this login and these headers.
pub(super) fn secrets(login: Option<&Login>, headers: &HeaderMap) -> Vec<Secret<String>> {
    let of_login = login.into_iter().flat_map(|login| [&login.password, &login.identity_token]).cloned();
    let values = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION].into_iter().filter_map(|name| {
        let (_, value) = headers.get(name)?.to_str().ok()?.split_once(' ')?;
        Some(Secret::new(value.to_owned()))
    });
    of_login.chain(values).filter(|secret| !secret.expose().is_empty()).collect()
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `a=b&c=d`, each part percent-encoded.
fn form(fields: &[(&str, &str)]) -> String {
    let encoded = |text: &str| -> String {
        let part = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(part).collect()
    };
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_login_is_shown_in_the_way_that_it_is_made_for() {
        let request = |login: Option<&Login>| {
            let token = TokenRequest { service: Some("a b"), scope: "repository:x/y:pull", login };
            token.request("/token?x=1").unwrap()
        };
        let anonymous = request(None);
        assert_eq!(anonymous.uri(), "/token?x=1&service=a%20b&scope=repository%3Ax%2Fy%3Apull");
        assert!(anonymous.headers().is_empty());
        let mut login = Login {
            username: "u&".into(),
            password: Secret::new("p".into()),
            identity_token: Secret::new(String::new()),
        };
        let named = request(Some(&login));
        assert!(named.uri().to_string().ends_with("&account=u%26"));
        assert_eq!(named.headers()["authorization"], "Basic dSY6cA==");
        login.identity_token = Secret::new("id".into());
        let identity = request(Some(&login));
        assert_eq!((identity.method(), identity.uri().to_string().as_str()), (&Method::POST, "/token?x=1"));
        assert!(!identity.headers().contains_key("authorization"));
    }

    #[test]
    fn a_token_has_one_of_two_names() {
        for answer in
            [r#"{"token":"t"}"#, r#"{"access_token":"t","token":""}"#, r#"{"token":null,"access_token":"t"}"#]
        {
            assert_eq!(bearer(answer.as_bytes()).unwrap(), "Bearer t");
        }
        for answer in ["{}", "", r#"{"token":"a\nb"}"#] {
            assert_eq!(bearer(answer.as_bytes()).unwrap_err().kind(), Kind::Unavailable);
        }
    }
}
