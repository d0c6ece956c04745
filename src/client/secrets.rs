//! The secrets that a build may request by id.

use std::{collections::BTreeMap, fs, io::Read as _, os::fd::AsRawFd as _, path::Path};

use super::{
    context::Areas,
    env::Env,
    exit::Failure,
    options::{SecretFrom, SecretSource},
};
use crate::names::{Secret, secret::SECRET_BYTES_MAX};

const BYTES_MAX: u64 = SECRET_BYTES_MAX as u64;

/// The value of each secret.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    values: BTreeMap<String, Secret<Vec<u8>>>,
}

impl Secrets {
    /// Reads every source, so that a missing one is reported before the build starts, and nobody can replace it later.
    /// No link in one of the `areas` may lead out of it.
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
    pub(crate) fn get(&self, id: &str) -> Option<&Secret<Vec<u8>>> {
        self.values.get(id)
    }
}

fn file(id: &str, path: &Path, areas: &Areas) -> Result<Secret<Vec<u8>>, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("secret `{id}`: cannot read {}: {error}", path.display()))
    };
    let real = areas.file(path).map_err(|error| failed(&error))?;
    let file = fs::File::open(&real).map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("secret `{id}`: {} is a directory", path.display())));
    }
    // A process of the repository's may have put a link into the path meanwhile.
    let opened = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if metadata.is_file() && opened.is_ok_and(|opened| opened != real) {
        return Err(failed(&"it was replaced at this moment"));
    }
    let mut value = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut value).map_err(|error| failed(&error))?;
    check_size(id, value.len() as u64)?;
    Ok(Secret::new(value))
}

fn known(id: &str, value: String) -> Result<Secret<Vec<u8>>, Failure> {
    check_size(id, value.len() as u64)?;
    Ok(Secret::new(value.into_bytes()))
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

    #[test]
    fn secrets_come_from_where_they_are_said_to_be() {
        let path = std::env::temp_dir().join(format!("wharf-secret-{}", std::process::id()));
        fs::write(&path, "of a file").unwrap();
        let flag = format!("id=a,src={}", path.display());
        let secrets = find(&[&flag, "id=b,env=V", "id=c"], &[("V", ""), ("c", "of c")]).unwrap();
        // Another file in its place, such as a link that leads to the agent's own, comes too late.
        fs::write(&path, vec![b'x'; 512_001]).unwrap();
        let value = |id| secrets.get(id).map(|value| value.expose().clone());
        assert_eq!(value("a").unwrap(), b"of a file");
        assert_eq!(value("b").unwrap(), b"");
        assert_eq!(value("c").unwrap(), b"of c");
        assert_eq!(value("d"), None);
        assert!(find(&[&flag], &[]).unwrap_err().text.contains("too large"));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_link_in_the_repository_leads_to_no_file_of_the_agent() {
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
                let found = find(path).unwrap();
                assert_eq!(found.get("a").unwrap().expose(), text.as_bytes(), "{path}");
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
