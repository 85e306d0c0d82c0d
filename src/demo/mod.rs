//! `gatepost demo`: a sink MTA, a gate, bots and honest clients on loopback, and what happened to each.
