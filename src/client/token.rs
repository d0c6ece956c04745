//! The token that proves the caller to wharfd.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use super::{
    env::{self, Env},
    exit::Failure,
};

/// wharfd takes no longer ones.
const TOKEN_BYTES_MAX: u64 = 8 << 10;

/// Adds the token to each call. Its `Debug` does not show it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Token {
    value: Option<MetadataValue<Ascii>>,
    /// A file is read for each call: what writes it may renew the token during a build.
    file: Option<PathBuf>,
}

impl Token {
    /// The token in the file that `flag` names, else that of WHARF_TOKEN, else none.
    pub(crate) fn resolve(flag: Option<&Path>, env: &Env) -> Result<Self, Failure> {
        let value = match flag {
            Some(path) => Some(of_file(path)?),
            None => env.get(env::WHARF_TOKEN)?.map(|text| value("WHARF_TOKEN", &text)).transpose()?,
        };
        Ok(Self { value, file: flag.map(Path::to_owned) })
    }

    /// Whether there is one, without reading it.
    pub(crate) fn is_given(flag: Option<&Path>, env: &Env) -> Result<bool, Failure> {
        Ok(flag.is_some() || env.get(env::WHARF_TOKEN)?.is_some())
    }
}

/// When a signed token is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expiry {
    pub(crate) issued: Option<f64>,
    pub(crate) expires: f64,
}

impl Token {
    /// What the token itself says; nobody has checked its signature. `None` if it is no JSON Web Token that expires.
    pub(crate) fn expiry(&self) -> Option<Expiry> {
        let text = self.value.as_ref()?.to_str().ok()?;
        let payload = text.split('.').nth(1)?;
        let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
        let time = |name: &str| claims.get(name)?.as_f64();
        Some(Expiry { issued: time("iat"), expires: time("exp")? })
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // If the file cannot be read again (a pipe, or a file that is being replaced), the token stays.
        if let Some(renewed) = self.file.as_deref().and_then(|path| of_file(path).ok()) {
            self.value = Some(renewed);
        }
        if let Some(value) = &self.value {
            request.metadata_mut().insert(AUTHORIZATION.as_str(), value.clone());
        }
        Ok(request)
    }
}

fn of_file(path: &Path) -> Result<MetadataValue<Ascii>, Failure> {
    value(&format!("--token-file {}", path.display()), &read(path)?)
}

fn value(place: &str, text: &str) -> Result<MetadataValue<Ascii>, Failure> {
    let text = text.trim();
    let wrong = |why: &str| Failure::usage(format!("{place}: {why}"));
    if text.is_empty() {
        return Err(wrong("the token is empty")
            .hint("check that the credential is bound, and that the file was written"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("this is not one token: it has spaces, several lines or other odd characters"));
    }
    let value = MetadataValue::try_from(format!("Bearer {text}"));
    let mut value = value.map_err(|_| wrong("this is not a token"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("--token-file {}: cannot read the token: {why}", path.display()))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| failed(&error))?;
    file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| failed(&error))?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(failed(&format_args!("the file has more than {} KiB", TOKEN_BYTES_MAX >> 10)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(mut token: Token) -> Option<String> {
        let request = token.call(Request::new(())).unwrap();
        request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_signed_token_says_when_it_expires() {
        let of = |text: &str| Token::resolve(None, &Env::of(&[("WHARF_TOKEN", text)])).unwrap().expiry();
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let expiry = Expiry { issued: Some(5.0), expires: 1e10 };
        assert_eq!(of(&token(r#"{"exp": 1e10, "iat": 5, "sub": "x"}"#)), Some(expiry));
        assert_eq!(of(&token(r#"{"exp": 7}"#)), Some(Expiry { issued: None, expires: 7.0 }));
        for none in ["static-token", "a.b.c", "..", &token("[]"), &token(r#"{"exp": "1"}"#), &token("{}")] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(Token::default().expiry(), None);
    }

    #[test]
    fn the_file_goes_before_the_variable() {
        let file = std::env::temp_dir().join(format!("wharf-token-{}", std::process::id()));
        std::fs::write(&file, "of-file\n").unwrap();
        let env = Env::of(&[("WHARF_TOKEN", "of-variable")]);
        let token = Token::resolve(Some(&file), &env).unwrap();
        assert!(!format!("{token:?}").contains("of-file"), "{token:?}");
        assert_eq!(sent(token).as_deref(), Some("Bearer of-file"));
        assert_eq!(sent(Token::resolve(None, &env).unwrap()).as_deref(), Some("Bearer of-variable"));
        let none = Token::resolve(None, &Env::of(&[])).unwrap();
        assert!(sent(none).is_none() && !Token::is_given(None, &Env::of(&[])).unwrap());
        let mut renewed = Token::resolve(Some(&file), &env).unwrap();
        std::fs::write(&file, "renewed").unwrap();
        assert_eq!(sent(renewed.clone()).as_deref(), Some("Bearer renewed"));
        renewed.call(Request::new(())).unwrap();
        std::fs::write(&file, "").unwrap();
        assert_eq!(sent(renewed).as_deref(), Some("Bearer renewed"), "a file on its way");
        for odd in ["", " \n", "a b", "a\nb", "\u{e9}"] {
            std::fs::write(&file, odd).unwrap();
            let failure = Token::resolve(Some(&file), &env).unwrap_err();
            assert!(failure.text.starts_with("--token-file"), "{odd}: {failure:?}");
        }
        std::fs::write(&file, "x".repeat(9000)).unwrap();
        assert!(Token::resolve(Some(&file), &env).unwrap_err().text.contains("8 KiB"));
        std::fs::remove_file(&file).unwrap();
        assert!(Token::resolve(Some(&file), &env).unwrap_err().text.contains("cannot read"));
    }
}
