//! Files that come, change and go.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::file::{File, Took, Trouble};
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Replaces a file as those do who fetch lists with care.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn a_file_is_taken_at_the_start_and_after_each_change_when_it_is_at_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drop.txt");
    put(&path, "192.0.2.0/24 ; SBL1\n");
    let mut file = File::new(path.clone());
    assert!(matches!(file.look(), Took::New));
    assert_eq!(file.networks().len(), 1);
    assert!(matches!(file.look(), Took::Nothing));

    put(&path, "192.0.2.0/24\n2001:db8::/32\n");
    assert!(matches!(file.look(), Took::Nothing), "it may be half written");
    assert!(matches!(file.look(), Took::New));
    assert_eq!(file.networks().len(), 2);

    // Still being written: longer at each look.
    let mut text = String::new();
    for n in 0..5 {
        text.push_str(&format!("198.51.100.{n}\n"));
        fs::write(&path, &text).unwrap();
        assert!(matches!(file.look(), Took::Nothing));
    }
    assert!(matches!(file.look(), Took::New));
    assert_eq!(file.networks().len(), 5);
}

#[test]
fn what_cannot_be_used_changes_nothing_and_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drop.txt");
    put(&path, "192.0.2.0/24\n");
    let mut file = File::new(path.clone());
    assert!(matches!(file.look(), Took::New));

    put(&path, "<html>\n198.51.100.0/24\n10.0.0.1/8\n");
    assert!(matches!(file.look(), Took::Nothing));
    let Took::Trouble(trouble) = file.look() else { panic!("two lines are wrong") };
    let said = trouble.to_string();
    assert!(said.starts_with("2 lines of it are no networks; line 1: \"<html>\""), "{said}");
    assert!(said.contains("line 3: \"10.0.0.1/8\""), "{said}");
    assert_eq!(file.networks(), ["192.0.2.0/24".parse().unwrap()]);
    assert!(matches!(file.look(), Took::Nothing), "told once");

    fs::remove_file(&path).unwrap();
    assert!(matches!(file.look(), Took::Trouble(Trouble::Unreadable(_))));
    assert!(matches!(file.look(), Took::Nothing), "told once");
    assert_eq!(file.networks().len(), 1);

    fs::create_dir(&path).unwrap();
    assert!(matches!(file.look(), Took::Nothing));
    assert!(matches!(file.look(), Took::Trouble(Trouble::NotAFile)));
    assert!(matches!(file.look(), Took::Nothing), "told once");
    fs::remove_dir(&path).unwrap();
    assert!(matches!(file.look(), Took::Trouble(_)), "away again");

    put(&path, "203.0.113.0/24\n");
    assert!(matches!(file.look(), Took::Nothing));
    assert!(matches!(file.look(), Took::New), "and it is well again");
    assert_eq!(file.networks(), ["203.0.113.0/24".parse().unwrap()]);
}

#[test]
fn at_the_start_what_can_be_read_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drop.txt");
    let mut file = File::new(path.clone());
    assert!(matches!(file.look(), Took::Trouble(Trouble::Unreadable(_))));
    put(&path, "nonsense\n");
    assert!(matches!(file.look(), Took::Trouble(Trouble::BadLines { count: 1, .. })), "nothing of it can");
    put(&path, "nonsense\n192.0.2.0/24\n");
    assert!(matches!(file.look(), Took::Part(_)));
    assert_eq!(file.networks().len(), 1);
}

#[test]
fn a_flood_of_bad_lines_is_counted_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drop.txt");
    put(&path, &"x\n".repeat(100_000));
    let (networks, Some(trouble)) = read(&path) else { panic!("nothing of it is a network") };
    assert!(networks.is_empty());
    let said = trouble.to_string();
    assert!(said.starts_with("100000 lines") && said.ends_with("; and 99980 more"), "{said}");
    assert!(said.len() < 10_000);
}

#[test]
fn files_beyond_their_caps_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drop.txt");
    fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    assert!(matches!(read(&path), (_, Some(Trouble::TooLarge))));
    put(&path, &"1.2.3.4\n".repeat(1_000_001));
    assert!(matches!(read(&path), (_, Some(Trouble::TooMany))));
}

#[test]
fn lists_are_called_by_their_files() {
    let called = |paths: &[&str]| {
        let names = names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        names.iter().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(called(&["/a/drop.txt", "/a/edrop.txt"]), ["drop.txt", "edrop.txt"]);
    assert_eq!(called(&["/a/drop.txt", "/b/drop.txt", "/b/x"]), ["/a/drop.txt", "/b/drop.txt", "x"]);
}

#[tokio::test]
async fn the_first_list_is_named_and_changes_take_effect_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    put(&one, "\u{feff}192.0.2.0/25\r\n# none\r\n");
    put(&two, "192.0.2.0/24 # all of it\n2001:db8::/32\n");
    let settings = Settings { files: vec![one.clone(), two], every: Duration::from_millis(20) };
    let lists = Lists::open(settings).await;
    let on = |client| lists.look_up(ip(client)).map(|name| name.to_string());
    assert_eq!(on("192.0.2.1").as_deref(), Some("one"));
    assert_eq!(on("::ffff:192.0.2.1").as_deref(), Some("one"));
    assert_eq!(on("192.0.2.200").as_deref(), Some("two"));
    assert_eq!(on("2001:db8::1").as_deref(), Some("two"));
    assert_eq!(on("198.51.100.1"), None);
    assert_eq!(
        lists.states().iter().map(|state| (state.entries, state.failures)).collect::<Vec<_>>(),
        [(1, 0), (2, 0)]
    );

    put(&one, "198.51.100.0/24\n198.51.101.0/24\n");
    let end = Instant::now() + Duration::from_secs(30);
    while on("198.51.100.1").is_none() {
        assert!(Instant::now() < end, "it was never noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(on("192.0.2.1").as_deref(), Some("two"));

    put(&one, "nonsense\n");
    while lists.states()[0].failures == 0 {
        assert!(Instant::now() < end, "it was never noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(on("198.51.100.1").as_deref(), Some("one"));
    assert_eq!(lists.states()[0].entries, 2);
}

/// Prints what a look-up among a million networks costs; `--release --nocapture` for the true figure.
#[test]
fn a_million_networks_are_asked_by_the_way() {
    let scatter = |n: u32| n.wrapping_mul(2_654_435_761);
    let nets = (0..1_000_000_u32).map(|n| (ipnet::IpNet::from(IpAddr::from(Ipv4Addr::from(scatter(n)))), Some(0_u16)));
    let listed = FirstMatch::new(nets);
    let asked: Vec<IpAddr> = (0..1_000_000_u32).map(|n| Ipv4Addr::from(n.wrapping_mul(40_503_001)).into()).collect();
    let begin = Instant::now();
    let hits = asked.iter().filter(|client| listed.look_up(**client).is_some()).count();
    println!("{hits} hits; {:?} a look-up", begin.elapsed() / 1_000_000);
    assert!(listed.look_up(Ipv4Addr::from(scatter(7)).into()).is_some());
}
