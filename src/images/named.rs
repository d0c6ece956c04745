//! How many names the images of namespaces have.
//!
//! Whoever looks at an image gets all its names, those of other namespaces as well, and each name is removed on its own: a
//! job with very many names would slow down everybody with the same base, and the end of other namespaces.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Images;
use crate::{
    fault::{Fault, Reason},
    names::{CallerId, Namespace},
    naming::NamespaceKey,
    policy::Permit,
};

/// The most names of a namespace.
const OF_NAMESPACE: usize = 2000;
/// The most names of a caller's namespaces together.
const OF_CALLER: usize = 20_000;

/// The numbers of names by namespace: those that were found when the engine was taken up, and all
/// that were given since, even if they were removed.
#[derive(Debug, Default)]
pub(super) struct Named(Mutex<HashMap<NamespaceKey, Count>>);

#[derive(Debug, Default)]
struct Count {
    /// The last caller to give a name; `None` after a start.
    caller: Option<CallerId>,
    names: usize,
}

/// The limit that a further name would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Namespace,
    Caller,
}

impl Named {
    /// Counts another name, unless that is one too many.
    fn add(&self, caller: &CallerId, opaque: &NamespaceKey) -> Result<(), Full> {
        let mut counts = self.lock();
        let of_caller = |count: &&Count| count.caller.as_ref() == Some(caller);
        if counts.get(opaque).is_some_and(|count| count.names >= OF_NAMESPACE) {
            return Err(Full::Namespace);
        }
        if counts.values().filter(of_caller).map(|count| count.names).sum::<usize>() >= OF_CALLER {
            return Err(Full::Caller);
        }
        let count = counts.entry(opaque.to_owned()).or_default();
        count.caller = Some(caller.clone());
        count.names += 1;
        Ok(())
    }

    /// Takes these numbers: there are no others.
    pub(super) fn count(&self, found: impl IntoIterator<Item = (NamespaceKey, usize)>) {
        let mut counts = self.lock();
        let mut before = std::mem::take(&mut *counts);
        let kept = found.into_iter().map(|(opaque, names)| {
            let caller = before.remove(&opaque).and_then(|count| count.caller);
            (opaque, Count { caller, names })
        });
        *counts = kept.collect();
    }

    /// Forgets a namespace that has ended.
    pub(super) fn forget(&self, opaque: &NamespaceKey) {
        self.lock().remove(opaque);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NamespaceKey, Count>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images {
    /// Counts another name in a namespace, or refuses it.
    pub(super) async fn count_name(
        &self,
        namespace: &Permit<Namespace>,
        opaque: &NamespaceKey,
    ) -> Result<(), Fault> {
        let (named, caller) = (&self.inner.named, namespace.caller());
        if named.add(caller, opaque).is_ok() {
            return Ok(());
        }
        // Names that are gone count, too, until the engine is asked.
        let _place = self.inner.counting.take(caller).await;
        let owned = self.possessions().await?;
        named.count(owned.into_iter().map(|(opaque, owned)| (opaque, owned.names())));
        named.add(caller, opaque).map_err(|full| {
            let text = match full {
                Full::Namespace => {
                    format!("the namespace has {OF_NAMESPACE} names of images, the most that one may have")
                }
                Full::Caller => {
                    format!("{caller} has {OF_CALLER} names of images, the most that a caller may have")
                }
            };
            Fault::new(Reason::LimitReached, text)
                .hint("remove images that the job does not need, or end namespaces")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_limited_for_a_namespace_and_for_a_caller() {
        let named = Named::default();
        let (one, other) = (CallerId::Uid(1), CallerId::Uid(2));
        assert!((0..OF_NAMESPACE).all(|_| named.add(&one, &"a".into()).is_ok()));
        assert_eq!(named.add(&one, &"a".into()), Err(Full::Namespace));
        assert_eq!(named.add(&other, &"a".into()), Err(Full::Namespace));
        for number in 1..OF_CALLER / OF_NAMESPACE {
            assert!((0..OF_NAMESPACE).all(|_| named.add(&one, &number.to_string().as_str().into()).is_ok()));
        }
        assert_eq!(named.add(&one, &"b".into()), Err(Full::Caller));
        assert_eq!(named.add(&other, &"b".into()), Ok(()));
        // The engine has fewer than were given, and the caller is still known.
        named.count([("a".into(), OF_NAMESPACE), ("1".into(), 5)]);
        assert_eq!(named.add(&one, &"a".into()), Err(Full::Namespace));
        assert!((0..OF_NAMESPACE - 5).all(|_| named.add(&one, &"1".into()).is_ok()));
        assert_eq!(named.add(&one, &"1".into()), Err(Full::Namespace));
    }
}
