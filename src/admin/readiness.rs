//! Whether gatepost takes mail, and if not, why.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backend::Presence;

/// What keeps gatepost from taking mail.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hindrance {
    /// The gates' addresses are not bound yet.
    NotListening,
    /// It is stopping: those inside are served, nobody is let in.
    Draining,
    /// The backend of the gate of this name cannot be reached.
    BackendAway(Arc<str>),
    /// The backend of the gate of this name has neither answered nor failed to: it is being asked.
    BackendUnknown(Arc<str>),
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListening => f.write_str("not listening"),
            Self::Draining => f.write_str("draining"),
            Self::BackendAway(gate) => write!(f, "the backend of gate {gate} is away"),
            Self::BackendUnknown(gate) => write!(f, "the backend of gate {gate} has not answered yet"),
        }
    }
}

/// Whether gatepost takes mail. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// What is in the way. A lock, because those who set and the one who asks are different tasks; held for a set of a
    /// handful.
    hindrances: Arc<Mutex<BTreeSet<Hindrance>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Not ready: nothing listens yet.
    pub fn new() -> Self {
        Self { hindrances: Arc::new(Mutex::new(BTreeSet::from([Hindrance::NotListening]))) }
    }

    /// Says whether `hindrance` is in the way.
    pub fn set(&self, hindrance: Hindrance, is_there: bool) {
        let mut hindrances = self.hindrances.lock();
        if is_there {
            hindrances.insert(hindrance);
        } else {
            hindrances.remove(&hindrance);
        }
    }

    /// Says what is known of the backend of `gate`.
    pub fn set_backend(&self, gate: &Arc<str>, presence: Presence) {
        let mut hindrances = self.hindrances.lock();
        for (hindrance, is_there) in [
            (Hindrance::BackendAway(Arc::clone(gate)), presence == Presence::Away),
            (Hindrance::BackendUnknown(Arc::clone(gate)), presence == Presence::Unknown),
        ] {
            if is_there {
                hindrances.insert(hindrance);
            } else {
                hindrances.remove(&hindrance);
            }
        }
    }

    /// Forgets the backends of all gates but these.
    pub fn keep_backends<'a>(&self, gates: impl Iterator<Item = &'a Arc<str>> + Clone) {
        self.hindrances.lock().retain(|hindrance| match hindrance {
            Hindrance::BackendAway(gate) | Hindrance::BackendUnknown(gate) => gates.clone().any(|kept| kept == gate),
            Hindrance::NotListening | Hindrance::Draining => true,
        });
    }

    /// Whether nothing is in the way.
    pub fn is_ready(&self) -> bool {
        self.hindrances.lock().is_empty()
    }

    /// What is in the way.
    pub fn hindrances(&self) -> Vec<Hindrance> {
        self.hindrances.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_nothing_is_in_the_way() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready());
        readiness.clone().set(Hindrance::NotListening, false);
        assert!(readiness.is_ready());
        let [mx, submission] = ["mx", "submission"].map(Arc::from);
        readiness.set_backend(&mx, Presence::Away);
        readiness.set_backend(&submission, Presence::There);
        assert_eq!(readiness.hindrances(), [Hindrance::BackendAway("mx".into())]);
        readiness.set_backend(&mx, Presence::There);
        assert!(readiness.is_ready());
        // A backend is not there for want of news from it.
        readiness.set_backend(&submission, Presence::Unknown);
        assert_eq!(readiness.hindrances(), [Hindrance::BackendUnknown("submission".into())]);
        readiness.set_backend(&submission, Presence::Away);
        assert_eq!(readiness.hindrances(), [Hindrance::BackendAway("submission".into())]);
        readiness.set(Hindrance::Draining, true);
        readiness.keep_backends([&mx].into_iter());
        assert_eq!(readiness.hindrances(), [Hindrance::Draining]);
    }
}
