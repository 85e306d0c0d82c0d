//! What was found: how much it matters, what it is, and what mends it.

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// It is as it should be.
    Fine,
    /// Good to know; nothing has to be done.
    Note,
    /// Something works worse than it could, or could not be found out.
    Warning,
    /// Mail would be lost, refused or abused.
    Problem(Fault),
}

/// Where a problem is to be mended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Something that is needed is not to be had now: the backend, the resolver, a port.
    Away,
    /// gatepost, the MTA or the host is set up wrongly.
    Setup,
}

impl Level {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem(_) => "problem",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// Reaching the MTA, and what it offers.
    Backend,
    /// Whether it learns who the client is.
    Announce,
    /// Whom it relays for.
    Relay,
    /// TLS, with clients and with the backend.
    Tls,
    /// The ports that the gate listens at.
    Listen,
    /// The name of this host in the DNS.
    Name,
    /// The name servers.
    Resolver,
    /// The DNS lists.
    Lists,
    /// The packet filter.
    Firewall,
    /// The admin interface.
    Admin,
    /// The examination itself.
    Doctor,
}

impl Topic {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Announce => "announce",
            Self::Relay => "relay",
            Self::Tls => "tls",
            Self::Listen => "listen",
            Self::Name => "name",
            Self::Resolver => "resolver",
            Self::Lists => "lists",
            Self::Firewall => "firewall",
            Self::Admin => "admin",
            Self::Doctor => "doctor",
        }
    }
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What it is about.
    pub topic: Topic,
    /// What it is; safe to show.
    pub what: String,
    /// What mends it. Empty where there is nothing to mend.
    pub remedy: String,
}

/// What was found, in the order in which it was looked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Something is as it should be.
    pub(super) fn fine(&mut self, topic: Topic, what: impl Into<String>) {
        self.add(Level::Fine, topic, what, "");
    }

    /// Something is good to know.
    pub(super) fn note(&mut self, topic: Topic, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Note, topic, what, remedy);
    }

    /// Something could be better, or cannot be told.
    pub(super) fn warn(&mut self, topic: Topic, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Warning, topic, what, remedy);
    }

    /// Something is not there.
    pub(super) fn away(&mut self, topic: Topic, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Problem(Fault::Away), topic, what, remedy);
    }

    /// Something is set up wrongly.
    pub(super) fn wrong(&mut self, topic: Topic, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Problem(Fault::Setup), topic, what, remedy);
    }

    /// Puts those of `other` behind.
    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    fn add(&mut self, level: Level, topic: Topic, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Finding { level, topic, what: what.into(), remedy: remedy.into() });
    }
}
