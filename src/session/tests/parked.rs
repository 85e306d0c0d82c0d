//! What a stranger that waits holds: itself, its place and its deadline, and no buffer.

use allocation_counter::measure;

use super::*;

/// Fewer than one client may have at once.
const MANY: i64 = 40;

/// In bytes, the tables' room to grow included. The smallest buffer that anything is read into has twice as many.
const MOST: i64 = 512;

#[tokio::test]
async fn who_waits_holds_no_buffer() {
    let mut settings = settings(nobody());
    screened(&mut settings, |screen| {
        screen.greet.minimum = LONG;
        screen.greet.maximum = LONG;
        screen.greet.teaser = Some("mx.example.com wait".into());
    });
    only_early(&mut settings);
    let post = Post::new(settings);
    let (mut lot, _poll, _answers) = post.lot();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut arrive = || {
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let (guest, screen) = post.arriving();
        lot.park(mio::net::TcpStream::from_std(socket), guest, screen);
        client
    };
    let mut clients = Vec::with_capacity(MANY as usize + 1);
    // What is made for the first is there for all.
    clients.push(arrive());
    let info = measure(|| clients.extend((0..MANY).map(|_| arrive())));
    let each = info.bytes_current / MANY;
    assert!((1..MOST).contains(&each), "{each} bytes each");
    lot.drain();
}
