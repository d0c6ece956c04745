//! The secrets that a build may request by id.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tokio::io::AsyncReadExt as _;

use super::{
    context::Areas,
    env::Env,
    exit::{Exit, Failure},
    options::{SecretFrom, SecretSource},
};
use crate::names::{Secret, secret::SECRET_BYTES_MAX};

const BYTES_MAX: u64 = SECRET_BYTES_MAX as u64;

/// The place of each secret's value. A file is read when the build asks for it.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    values: BTreeMap<String, Value>,
}

#[derive(Debug)]
enum Value {
    File(PathBuf),
    Known(Secret<Vec<u8>>),
}

impl Secrets {
    /// Checks that every source exists, so that a missing one is reported before the build starts. No link in one of
    /// the `areas` may lead out of it.
    pub(crate) fn find(sources: &[SecretSource], env: &Env, areas: &Areas) -> Result<Self, Failure> {
        let mut values = BTreeMap::new();
        for source in sources {
            let value = match &source.from {
                Some(SecretFrom::File(path)) => file(&source.id, path, areas)?,
                Some(SecretFrom::Env(name)) => match env.named(name)? {
                    Some(value) => known(&source.id, value)?,
                    None => {
                        return Err(Failure::usage(format!(
                            "secret `{}`: the environment variable `{name}` is not set",
                            source.id
                        )));
                    }
                },
                None => match env.named(&source.id)? {
                    Some(value) => known(&source.id, value)?,
                    None => file(&source.id, Path::new(&source.id), areas)?,
                },
            };
            values.insert(source.id.clone(), value);
        }
        Ok(Self { values })
    }

    /// The secret `id`; `None` if the command line does not name it.
    pub(crate) async fn get(&self, id: &str) -> Result<Option<Secret<Vec<u8>>>, Failure> {
        let path = match self.values.get(id) {
            None => return Ok(None),
            Some(Value::Known(value)) => return Ok(Some(value.clone())),
            Some(Value::File(path)) => path,
        };
        let read = async {
            let mut value = Vec::new();
            tokio::fs::File::open(path).await?.take(BYTES_MAX + 1).read_to_end(&mut value).await?;
            Ok::<_, std::io::Error>(value)
        };
        let value = read.await.map_err(|error| {
            Failure::new(Exit::Failed, format!("secret `{id}`: cannot read {}: {error}", path.display()))
        })?;
        check_size(id, value.len() as u64)?;
        Ok(Some(Secret::new(value)))
    }
}

fn file(id: &str, path: &Path, areas: &Areas) -> Result<Value, Failure> {
    let found = areas.file(path).and_then(|real| Ok((fs::metadata(&real)?, real)));
    let (metadata, real) = found
        .map_err(|error| Failure::usage(format!("secret `{id}`: cannot read {}: {error}", path.display())))?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("secret `{id}`: {} is a directory", path.display())));
    }
    check_size(id, metadata.len())?;
    Ok(Value::File(real))
}

fn known(id: &str, value: String) -> Result<Value, Failure> {
    check_size(id, value.len() as u64)?;
    Ok(Value::Known(Secret::new(value.into_bytes())))
}

fn check_size(id: &str, bytes: u64) -> Result<(), Failure> {
    if bytes > BYTES_MAX {
        return Err(Failure::usage(format!(
            "secret `{id}` is too large: the limit is {} KiB",
            BYTES_MAX >> 10
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::options;

    fn find(flags: &[&str], env: &[(&str, &str)]) -> Result<Secrets, Failure> {
        let sources: Vec<_> = flags.iter().map(|flag| options::secret(flag).unwrap()).collect();
        Secrets::find(&sources, &Env::of(env), &Areas::default())
    }

    #[tokio::test]
    async fn secrets_come_from_where_they_are_said_to_be() {
        let path = std::env::temp_dir().join(format!("wharf-secret-{}", std::process::id()));
        fs::write(&path, "of a file").unwrap();
        let flag = format!("id=a,src={}", path.display());
        let secrets = find(&[&flag, "id=b,env=V", "id=c"], &[("V", ""), ("c", "of c")]).unwrap();
        let value = async |id| secrets.get(id).await.unwrap().map(|value| value.expose().clone());
        assert_eq!(value("a").await.unwrap(), b"of a file");
        assert_eq!(value("b").await.unwrap(), b"");
        assert_eq!(value("c").await.unwrap(), b"of c");
        assert_eq!(value("d").await, None);

        // The file grew after the check.
        fs::write(&path, vec![b'x'; 512_001]).unwrap();
        assert!(secrets.get("a").await.unwrap_err().text.contains("too large"));
        assert!(find(&[&flag], &[]).unwrap_err().text.contains("too large"));
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_link_in_the_repository_leads_to_no_file_of_the_agent() {
        let dir = std::env::temp_dir().join(format!("wharf-secret-link-{}", std::process::id()));
        let repository = dir.join("repository");
        fs::create_dir_all(&repository).unwrap();
        for (file, text) in [("agents", "agent's"), ("repository/own", "own")] {
            fs::write(dir.join(file), text).unwrap();
        }
        for (link, target) in [("repository/out", "../agents"), ("repository/in", "own"), ("link", "agents")]
        {
            std::os::unix::fs::symlink(target, dir.join(link)).unwrap();
        }
        let nowhere = dir.join("nowhere");
        for areas in [Areas::of(&repository, None), Areas::of(&nowhere, Some(&repository))] {
            let find = |path: &str| {
                let source = options::secret(&format!("id=a,src={}", dir.join(path).display())).unwrap();
                Secrets::find(&[source], &Env::of(&[]), &areas)
            };
            let refused = find("repository/out").unwrap_err().text;
            assert!(refused.contains("is a link that leads out of the "), "{refused}");
            for (path, text) in [("repository/in", "own"), ("link", "agent's"), ("agents", "agent's")] {
                let value = find(path).unwrap().get("a").await.unwrap().unwrap();
                assert_eq!(value.expose(), text.as_bytes(), "{path}");
            }
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_source_that_is_missing_is_named() {
        assert!(find(&["id=a,src=/nonexistent/x"], &[]).unwrap_err().text.contains("/nonexistent/x"));
        assert!(find(&["id=a,env=V"], &[]).unwrap_err().text.contains("`V`"));
        assert!(find(&["id=a,src=/"], &[]).unwrap_err().text.contains("directory"));
    }
}
