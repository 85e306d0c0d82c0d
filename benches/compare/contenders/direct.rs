//! Nobody in between: what load and sink can do by themselves.

use std::net::SocketAddr;

use super::{Contender, Setting};

pub(super) struct Direct(SocketAddr);

impl Direct {
    pub(super) fn start(setting: &Setting<'_>) -> Self {
        Self(setting.sink.plain)
    }
}

impl Contender for Direct {
    fn strangers(&self) -> SocketAddr {
        self.0
    }

    fn known(&self) -> SocketAddr {
        self.0
    }

    fn pid(&self) -> Option<i32> {
        None
    }
}
