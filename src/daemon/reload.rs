//! SIGHUP: reloads `[[serve]]`, `[issuers]` and `[[policy]]` from the configuration file.

use std::sync::Arc;

use tokio::signal::unix::Signal;

use super::said::{say_configured, say_not_configured, say_who_is_served};
use crate::{
    audit::Trail,
    config::{Config, Flags},
    fault::causes,
    identity::{Identities, Served},
    tasks::Group,
};

/// The configuration of a running wharfd, and where it came from.
pub(super) struct Reload {
    pub(super) flags: Flags,
    /// The values at the start of the keys that only a start reads.
    pub(super) config: Config,
    /// The configuration in use, with all that a running wharfd takes up.
    pub(super) current: Config,
    pub(super) served: Arc<Served>,
    pub(super) trail: Trail,
}

impl Reload {
    /// Reads the configuration again at each hangup. Running work continues under the rules under which it
    /// began.
    pub(super) async fn at_hangups(mut self, mut hangups: Signal, process: Group) {
        let said = async {
            // A terminal that closes sends it, too.
            while hangups.recv().await.is_some() {
                match self.again(&process).await {
                    Ok(()) => tracing::info!("the configuration is reloaded"),
                    Err(cause) => {
                        say_not_configured(&cause, &self.trail);
                        tracing::error!(cause, "the configuration is not reloaded: the old one stays in use");
                    }
                }
            }
        };
        let _ = process.unless_cancelled(said).await;
    }

    async fn again(&mut self, process: &Group) -> Result<(), String> {
        if self.flags.config.is_none() {
            return Err("there is no configuration file: --config".to_owned());
        }
        let flags = self.flags.clone();
        // On a thread of its own: the files may lie on a file system that hangs.
        let reading = process.spawn_blocking("configuration", move || {
            let config = Config::load(flags).map_err(|error| causes(&error))?;
            let identities = Identities::new(&config).map_err(|error| causes(&error))?;
            Ok::<_, String>((config, identities))
        });
        let (config, identities) = reading.await.map_err(|error| causes(&error))??;
        // Callers could be sent to an engine that is not there, or strangers' builds be kept apart less than the file says.
        let apart = |config: &Config| (config.frontend(), config.layers);
        if config.engines != self.config.engines || apart(&config) != apart(&self.config) {
            return Err(
                "the engines, the place where Dockerfiles are read, or the kind of layers have changed: \
                        restart wharfd"
                    .to_owned(),
            );
        }
        let keys = self.config.kept(&config);
        if !keys.is_empty() {
            tracing::warn!(keys = keys.join(", "), "only a restart of wharfd takes up these changes");
        }
        say_configured(Some(&self.current), &config, &keys, &self.trail);
        say_who_is_served(&identities, &self.trail);
        self.served.replace(identities);
        self.current = config;
        Ok(())
    }
}
