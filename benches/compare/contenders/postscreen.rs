//! Postfix: postscreen(8), which hands whom it lets in to smtpd(8), which passes mail on to the sink as its proxy filter.

use std::fs;
use std::net::SocketAddr;

use super::{CONNECTIONS, Contender, LIST, Setting, WAIT};
use crate::host::ports;
use crate::host::postfix::{Options, Postfix};

pub(super) struct Postscreen {
    postfix: Postfix,
    port: SocketAddr,
}

impl Postscreen {
    pub(super) fn start(setting: &Setting<'_>) -> Self {
        let port = ports::free_address();
        let services = [
            // In its root directory it finds the name server that it is to ask.
            "dnsblog unix - - y - 0 dnsblog".to_owned(),
            format!("{port} inet n - n - 1 postscreen"),
            format!("smtpd pass - - n - 100 smtpd\n  -o smtpd_proxy_filter=inet:{}", setting.sink.plain),
        ];
        let main = [
            "default_process_limit = 4096".to_owned(),
            format!("postscreen_greet_wait = {WAIT}s"),
            "postscreen_greet_action = drop".to_owned(),
            "postscreen_cache_map = btree:$data_directory/postscreen_cache".to_owned(),
            "postscreen_access_list = cidr:{ {127.10.0.0/16 permit} }".to_owned(),
            format!("postscreen_pre_queue_limit = {CONNECTIONS}"),
            format!("postscreen_post_queue_limit = {CONNECTIONS}"),
            format!("postscreen_client_connection_count_limit = {CONNECTIONS}"),
            "smtpd_client_connection_rate_limit = 0".to_owned(),
            "message_size_limit = 100000000".to_owned(),
        ];
        let list = setting.list.map(|_| format!("postscreen_dnsbl_sites = {LIST}"));
        let main: Vec<&str> = main.iter().chain(&list).map(String::as_str).collect();
        let postfix = Postfix::start(&Options {
            main_cf: &main,
            master_cf: &services.each_ref().map(String::as_str),
            ..Options::delivering_to(setting.sink.plain)
        });
        if let Some(server) = setting.list {
            // Read with the first look-up.
            let etc = postfix.queue().join("etc");
            let written = fs::create_dir_all(&etc)
                .and_then(|()| fs::write(etc.join("resolv.conf"), format!("nameserver {}\n", server.ip())));
            written.expect("our own directory");
        }
        Self { postfix, port }
    }
}

impl Contender for Postscreen {
    fn strangers(&self) -> SocketAddr {
        self.port
    }

    fn known(&self) -> SocketAddr {
        self.port
    }

    fn pid(&self) -> Option<i32> {
        Some(self.postfix.pid())
    }

    fn screen(&self) -> Option<&'static str> {
        Some("postscreen")
    }

    /// It closes on what it has not read, and the reset may overtake the 521.
    fn farewells(&self) -> &'static [&'static str] {
        &["521", "reset"]
    }
}
