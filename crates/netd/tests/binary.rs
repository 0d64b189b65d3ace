//! The program itself: its first word, its confinement, its end.

#![allow(clippy::unwrap_used, clippy::panic)]

mod guest;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guest::{Guest, Tried, echoing, ip, opening, read_line, send_opening};

fn program() -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_twofold-netd"))
        .stdin(OwnedFd::from(theirs))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, ours)
}

fn ends(child: &mut Child, within: Duration) -> bool {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

#[test]
fn it_is_confined_and_small_and_reaches_the_host_only_where_the_policy_means_it() {
    let (port, came) = echoing("127.0.0.1");
    let (mut child, ours) = program();
    let named = r#"{"mode":"listed","names":[{"name":"localhost"}]}"#;
    let folder = send_opening(&ours, named, 60);
    assert_eq!(read_line(&ours), r#"{"id":1,"ok":{}}"#);
    let mut guest = Guest::new(UnixStream::connect(folder.join("link")).unwrap());
    assert_eq!(guest.ask("localhost", 1), (3, vec![]), "rebinding to this machine");
    assert_eq!(guest.try_tcp(ip("127.0.0.1"), port), Tried::Reset);
    let call = |line: &str| {
        (&ours).write_all(line.as_bytes()).unwrap();
        read_line(&ours)
    };
    let means = r#"{"mode":"listed","names":[{"name":"localhost"}],"ranges":[{"net":"127.0.0.1","bits":32}]}"#;
    call(&format!("{{\"id\":2,\"do\":\"policy\",\"args\":{{\"policy\":{means}}}}}\n"));
    assert_eq!(guest.ask("localhost", 1), (0, vec![ip("127.0.0.1")]), "the real resolver, confined");
    assert_eq!(guest.try_tcp(ip("127.0.0.1"), port), Tried::Open);
    assert_eq!(came.load(std::sync::atomic::Ordering::SeqCst), 1);
    let status = call("{\"id\":3,\"do\":\"status\"}\n");
    assert!(status.contains("seccomp"), "{status}");
    let facts = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let fact = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((fact("NoNewPrivs:"), fact("Seccomp:")), ("1".into(), "2".into()));
    let resident: u64 = fact("VmRSS:").split(' ').next().unwrap().parse().unwrap();
    println!("{resident} KiB resident; {status}");
    assert!(resident < 8 << 10, "{resident} KiB");
    // No other uid is root here, so that "not dumpable" shows in who owns its folder, unless it is root's anyway.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id()));
    assert!(
        limits.is_err()
            || limits.unwrap().lines().any(|line| line.starts_with("Max core file size") && line.contains(" 0 "))
    );
    drop(ours); // its starter is gone: whoever reaches its socket can still control it
    let control = UnixStream::connect(folder.join("control")).unwrap();
    (&control).write_all(b"nonsense\n{\"id\":4,\"do\":\"fly\"}\n{\"id\":5,\"do\":\"stop\"}\n").unwrap();
    assert!(read_line(&control).contains("no request") && read_line(&control).contains("no such verb"));
    assert_eq!(read_line(&control), r#"{"id":5,"ok":{}}"#);
    assert!(ends(&mut child, Duration::from_secs(5)));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn without_a_word_or_with_a_wrong_one_it_ends() {
    for line in [
        "",
        "nonsense\n",
        "{\"id\":1,\"do\":\"policy\",\"args\":{}}\n",
        &opening(r#"{"mode":"all"}"#, 60),
        &"x".repeat(1 << 21),
    ] {
        let (mut child, mut ours) = program();
        let _ = ours.write_all(line.as_bytes()); // of the long one it does not take all
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(ends(&mut child, Duration::from_secs(5)), "{line:.40}");
    }
    let (mut child, ours) = program();
    let folder = send_opening(&ours, r#"{"mode":"most"}"#, 60);
    assert!(read_line(&ours).contains("error"));
    assert!(ends(&mut child, Duration::from_secs(5)));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn left_alone_it_ends_by_itself() {
    let (mut child, mut ours) = program();
    let folder = send_opening(&ours, r#"{"mode":"all"}"#, 1);
    read_line(&ours);
    assert!(ends(&mut child, Duration::from_secs(10)));
    assert_eq!(ours.read(&mut [0; 9]).unwrap(), 0);
    std::fs::remove_dir_all(folder).unwrap();
}
