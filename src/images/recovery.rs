//! Public names that wharfd uses for a moment are given back, also after a crash: the journal in the
//! store says what each pointed to before.

use super::Images;
use crate::{
    fault::{Fault, causes},
    names::{Reference, reference::Digest},
    store::PublicName,
};

impl Images {
    /// Puts right what an earlier wharfd has left behind. Called before anyone is served.
    pub async fn recover(&self) -> Result<(), Fault> {
        self.remove_late_exports().await?;
        self.give_names_back().await?;
        self.remove_lost_holds().await
    }

    /// Gives back every public name that nobody uses any more. One that cannot be given back now (a
    /// container uses it) stays in the journal; one that a push or a pull uses is its own to give back.
    pub async fn give_names_back(&self) -> Result<(), Fault> {
        for entry in self.store().journal(self.engine().name()).await? {
            // A pull's name has the digest, a push's the tag.
            let digest = entry.name.split_once('@').and_then(|(_, digest)| Digest::parse(digest));
            let lock = match digest {
                Some(digest) => self.inner.holds.try_lock(&self.hold_name(&digest)),
                None => self.inner.targets.try_lock(&entry.name),
            };
            let Some(_lock) = lock else { continue };
            tracing::info!(engine = self.engine().name(), name = entry.name, "giving a public name back");
            if let Err(fault) = self.settle(&entry.name).await {
                self.unsettled(&fault);
            }
        }
        Ok(())
    }

    /// Says that a name could not be given back; the janitor tries again.
    pub(crate) fn unsettled(&self, fault: &Fault) {
        let cause = causes(fault);
        tracing::warn!(engine = self.engine().name(), cause, "a public name could not be given back");
    }

    /// Gives a public name back, if the journal has it. Called with the name's lock.
    pub(crate) async fn settle(&self, name: &str) -> Result<(), Fault> {
        let Some(entry) = self.store().journal_entry(self.engine().name(), name).await? else {
            return Ok(());
        };
        match Reference::parse(name) {
            Ok(reference) if reference.digest().is_none() => self.settle_tag(&reference, &entry).await?,
            _ => self.engine().remove_name(name).await?,
        }
        self.store().journal_end(self.engine().name(), name).await
    }

    async fn settle_tag(&self, target: &Reference, entry: &PublicName) -> Result<(), Fault> {
        let kept = self.keys().kept(&entry.name);
        let now = self.engine().inspect_name(&entry.name).await?;
        // Whoever has moved the name since has meant it.
        if now.is_some_and(|now| now.id == entry.ours && now.id != entry.before) {
            match &entry.before {
                Some(_) if self.engine().inspect_name(&kept).await?.is_some() => {
                    self.engine().tag_name(&kept, &entry.name).await?;
                }
                _ => self.engine().remove_name(&entry.name).await?,
            }
        }
        // The classic store remembers what a push has made of the image, under the public repository.
        if let Some(id) = entry.ours.as_deref().and_then(Digest::parse) {
            for digest in self.engine().digests_of(target, &id).await? {
                if !entry.digests.contains(&digest) {
                    self.engine().remove_name(&digest).await?;
                }
            }
        }
        self.engine().remove_name(&kept).await
    }
}
