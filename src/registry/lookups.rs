//! Looks up the addresses of servers.
//!
//! The system's resolver blocks a thread until a name server answers or the resolver gives up; nothing ends it before,
//! and everything that blocks shares a number of threads. The name server may be the job's, and silent: so each caller
//! has only a few look-ups at once, all of them together leave threads to other work, and each counts until its thread
//! is free.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;

use crate::{names::CallerId, shares::Places, tasks::Group};

/// How long a look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How many look-ups a caller may have at once; the others wait for these.
const OF_CALLER: usize = 8;
/// How many threads all callers' look-ups may take: wharfd has as many more for everything else.
pub const LOOKUPS_MAX: usize = 512;

/// The look-ups of all callers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lookups {
    tasks: Group,
    places: Arc<Places>,
    /// The next answers, in the place of the system's.
    #[cfg(test)]
    script: Arc<std::sync::Mutex<std::collections::VecDeque<Vec<IpAddr>>>>,
}

/// The look-ups of one caller.
#[derive(Clone, Debug)]
pub struct Resolver {
    lookups: Lookups,
    caller: CallerId,
}

/// The reason why there is no address.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LookupError {
    #[error("its name does not resolve")]
    Unknown(#[source] Option<io::Error>),
    #[error("its name cannot be looked up in time")]
    Slow,
}

impl Lookups {
    /// Look-ups that run in `tasks`.
    pub fn new(tasks: &Group) -> Self {
        Self {
            tasks: tasks.child("lookups"),
            places: Arc::new(Places::new(LOOKUPS_MAX, OF_CALLER)),
            #[cfg(test)]
            script: Arc::default(),
        }
    }

    /// The look-ups of `caller`.
    pub fn of(&self, caller: &CallerId) -> Resolver {
        Resolver { lookups: self.clone(), caller: caller.clone() }
    }
}

#[cfg(test)]
impl Lookups {
    /// Look-ups that give these answers first, one after the other.
    pub(super) fn scripted(answers: &[&str]) -> Self {
        let lookups = Self::new(&Group::root());
        let answers = answers.iter().map(|address| vec![address.parse().unwrap()]);
        lookups.script.lock().unwrap().extend(answers);
        lookups
    }

    /// How many of them nobody has asked for.
    pub(super) fn left(&self) -> usize {
        self.script.lock().unwrap().len()
    }
}

impl Resolver {
    /// The addresses of `host`, at least one. Waits for the caller's own look-ups, and for others' only when very many
    /// callers have silent name servers.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        #[cfg(test)]
        if let Some(scripted) = self.lookups.script.lock().unwrap().pop_front() {
            return Ok(scripted);
        }
        let Lookups { tasks, places, .. } = &self.lookups;
        let place = places.take(&self.caller).await;
        let name = host.to_owned();
        let looking = tasks.spawn_blocking("lookup", move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            drop(place);
            found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        match timeout(LOOKUP_TIMEOUT, looking).await {
            Ok(Ok(Ok(addresses))) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(Err(error))) => Err(LookupError::Unknown(Some(error))),
            Ok(Ok(Ok(_)) | Err(_)) => Err(LookupError::Unknown(None)),
            Err(_) => Err(LookupError::Slow),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_caller_waits_for_its_own_lookups_alone() {
        let lookups = Lookups::new(&Group::root());
        let [one, other] = [1, 2].map(CallerId::Uid);
        let mut held = Vec::new();
        for _ in 0..OF_CALLER {
            held.push(lookups.places.take(&one).await);
        }
        let (mine, theirs) = (lookups.of(&one), lookups.of(&other));
        let mut waiting = Box::pin(mine.lookup("localhost"));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(mine.lookup("127.0.0.1").now_or_never().is_some(), "an address needs no look-up");
        assert!(theirs.lookup("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        drop(held);
        assert!(waiting.await.unwrap().iter().all(IpAddr::is_loopback));
        assert!(matches!(
            mine.lookup("no-such-host.invalid").await,
            Err(LookupError::Unknown(_) | LookupError::Slow)
        ));
    }
}
