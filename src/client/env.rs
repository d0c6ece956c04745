//! The environment variables of a command. They are read once, so that tests can supply their own.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use rustix::fs::{Access, access};

use super::{exit::Failure, progress::Console};

/// A variable that wharf itself reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    about: &'static str,
}

macro_rules! variables {
    ($($(#[doc = $about:literal])+ $name:ident;)+) => {
        $($(#[doc = $about])+
        pub(crate) const $name: Variable =
            Variable { name: stringify!($name), about: concat!($($about),+) };)+

        /// All variables, in the order of the help.
        const ALL: &[Variable] = &[$($name),+];
    };
}

variables! {
    /// Where wharfd listens, unless --addr says so
    WHARF_ADDR;
    /// The namespace to act in, JOB#RUN, unless --namespace says so
    WHARF_NAMESPACE;
    /// The token that proves who calls, unless --token-file says so
    WHARF_TOKEN;
    /// The authorities of wharfd's certificate, unless --tlscacert says so
    WHARF_TLSCACERT;
    /// The certificate that proves who calls, unless --tlscert says so
    WHARF_TLSCERT;
    /// The certificate's key, unless --tlskey says so
    WHARF_TLSKEY;
    /// Logins as --login has them, each with its HOST, with spaces between
    WHARF_LOGIN;
    /// Authorities instead of the system's, for tcp://; likewise SSL_CERT_DIR
    SSL_CERT_FILE;
    /// How progress is shown, unless --progress says so
    WHARF_PROGRESS;
    /// The same, after WHARF_PROGRESS
    BUILDKIT_PROGRESS;
    /// Jenkins' name of the job: with BUILD_NUMBER, the default namespace
    JOB_NAME;
    /// Jenkins' number of the run
    BUILD_NUMBER;
    /// Jenkins' workspace: no link that the build needs may lead out of it
    WORKSPACE;
    /// The shell's path of the current directory: the same holds of its links
    PWD;
    /// The directory of docker's config.json: logins, their helpers, proxies
    DOCKER_CONFIG;
    /// Logins in the form of config.json's `auths`; they precede the file's
    DOCKER_AUTH_CONFIG;
    /// The platform to build for and to pull, unless --platform says so
    DOCKER_DEFAULT_PLATFORM;
    /// The home directory, where .docker is without DOCKER_CONFIG
    HOME;
    /// The time of reproducible images, passed on as a build argument
    SOURCE_DATE_EPOCH;
    /// A file for a failure's message, on one line, for the Jenkins steps
    WHARF_ERROR_FILE;
    /// The kind of terminal: progress is plain if it is unset or `dumb`
    TERM;
    /// If not empty, progress is shown without colours
    NO_COLOR;
}

/// The table of variables, for `--help`.
pub(crate) fn help() -> String {
    let width = ALL.iter().map(|variable| variable.name.len()).max().unwrap_or(0);
    let mut text = String::from("Environment:\n");
    for Variable { name, about } in ALL {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<width$} {about}");
    }
    text
}

/// The environment's variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Env {
    variables: BTreeMap<OsString, OsString>,
}

impl Env {
    /// The variables of this process.
    pub(crate) fn of_process() -> Self {
        Self { variables: env::vars_os().collect() }
    }

    /// An environment of these variables.
    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self { variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }

    /// A variable's value; an empty variable counts as unset.
    pub(crate) fn get(&self, variable: Variable) -> Result<Option<String>, Failure> {
        Ok(self.named(variable.name)?.filter(|value| !value.is_empty()))
    }

    /// The unchanged value of a variable that the command line names.
    pub(crate) fn named(&self, name: &str) -> Result<Option<String>, Failure> {
        match self.variables.get(OsStr::new(name)) {
            Some(value) => match value.to_str() {
                Some(value) => Ok(Some(value.to_owned())),
                None => Err(Failure::usage(format!("the environment variable {name} is not UTF-8"))),
            },
            None => Ok(None),
        }
    }

    /// A variable that is a path.
    pub(crate) fn path(&self, variable: Variable) -> Option<PathBuf> {
        self.set(variable).map(PathBuf::from)
    }

    /// The capabilities of standard error, if it is a terminal.
    pub(crate) fn console(&self) -> Console {
        Console {
            is_dumb: self.set(TERM).is_none_or(|term| term == "dumb"),
            // As https://no-color.org asks.
            colors: self.set(NO_COLOR).is_none(),
        }
    }

    fn set(&self, variable: Variable) -> Option<&OsString> {
        self.variables.get(OsStr::new(variable.name)).filter(|value| !value.is_empty())
    }

    /// The program that `name` runs, as execvp(3) looks for it.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let path =
            self.variables.get(OsStr::new("PATH")).map_or(OsStr::new("/bin:/usr/bin"), OsString::as_os_str);
        let is_program = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
        env::split_paths(path).map(|directory| directory.join(name)).find(is_program)
    }

    /// The user's home.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.path(HOME).or_else(home_in_passwd)
    }
}

/// The home in the user's entry in passwd(5). A static binary has no other name service.
fn home_in_passwd() -> Option<PathBuf> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let uid = rustix::process::geteuid().as_raw().to_string();
    let entry = users.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
    entry.split(':').nth(5).filter(|home| !home.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_a_page() {
        let help = help();
        assert_eq!(help.lines().count(), ALL.len() + 1);
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }

    #[test]
    fn a_terminal_says_what_it_can() {
        let console = |variables: &[(&str, &str)]| {
            let Console { is_dumb, colors } = Env::of(variables).console();
            (is_dumb, colors)
        };
        assert_eq!(console(&[]), (true, true));
        assert_eq!(console(&[("TERM", ""), ("NO_COLOR", "")]), (true, true));
        assert_eq!(console(&[("TERM", "dumb")]), (true, true));
        assert_eq!(console(&[("TERM", "xterm"), ("NO_COLOR", "1")]), (false, false));
    }
}
