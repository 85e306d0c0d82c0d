//! A postscreen that is replaced by gatepost: what it remembered of clients goes along.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails, loudly and at once")]

mod daemon;
mod host;

use std::fs;

use daemon::{Mx, address, backend};
use host::dialogue::Dialogue;
use host::gate::{Gate, program};
use host::peers::{Peer, present};
use host::ports::free_address;
use host::postfix::{Options, Postfix};
use host::sink::Sink;

#[test]
fn a_client_that_postscreen_let_in_does_not_wait_at_the_gate() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let (sink, port) = (Sink::start(), free_address());
    let services = [format!("{port} inet n - n - 1 postscreen"), "smtpd pass - - n - - smtpd".into()];
    let mut postfix = Postfix::start(&Options {
        main_cf: &[
            "postscreen_greet_wait = 1s",
            "postscreen_access_list =",
            "postscreen_greet_action = enforce",
            "postscreen_cache_map = btree:$data_directory/postscreen_cache",
        ],
        master_cf: &services.each_ref().map(String::as_str),
        ..Options::delivering_to(sink.address())
    });
    // Its services are told of a connection only once they listen, which the plain port says nothing of.
    let mut client = Dialogue::from(address(1), port);
    client.expect("220");
    client.say("QUIT").expect("221");
    postfix.wait_for_log(&["PASS NEW", &address(1).to_string()]);
    postfix.halt();
    let cache = postfix.map(&format!("btree:{}", postfix.data().join("postscreen_cache").display()));
    assert!(cache.contains(&address(1).to_string()), "{cache}");

    let backend = backend();
    let gate = Gate::start(|place| {
        let socket = place.dir.join("s");
        let text = Mx::before(&backend).waiting("40s", "50s").at(place);
        format!("{text}\n[control]\nsocket = \"{}\"\n", socket.display())
    });
    let file = gate.dir().join("cache");
    fs::write(&file, &cache).expect("a file");
    let mut import = program();
    import.args(["state", "import", "--postscreen"]).arg(&file).arg("--socket").arg(gate.dir().join("s"));
    let told = import.output().expect("the program that runs already");
    assert!(told.status.success(), "{}\n{cache}", String::from_utf8_lossy(&told.stderr));
    let known = Dialogue::from(address(1), gate.smtp()).expect("220");
    assert_eq!(known, "220 mx.test ESMTP\n", "handed over at once\n{cache}");
    Dialogue::from(address(2), gate.smtp()).expect_line("220-");
    gate.stop();
}
