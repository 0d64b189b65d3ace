//! The right to hold the keys, by the company server's own signature and the clocks of this machine: nobody has to come and
//! take it, and nobody here can lengthen it (docs/decisions/0013).

use std::time::Duration;

use ring::signature::{ED25519, UnparsedPublicKey};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

use crate::hex;
use crate::said::{Code, Said};

/// How long after a lease's end the keys are still held, so that an agent that lives can seal the machine's memory; a tenth of a
/// lease that is shorter than ten times this.
const MOMENT: Duration = Duration::from_secs(120);
const SCHEMAS: [&str; 2] = ["twofold-lease-1", "twofold-lease-2"];

/// A lease as it comes: the signed bytes and their signatures, the server's key that this device pinned, and the highest time
/// (Unix seconds) that was ever known here, so that turning the clock back gains nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    payload: String,
    signatures: Vec<String>,
    server: String,
    seen: u64,
}

/// What counts of what the server signed.
#[derive(Deserialize)]
struct Claims {
    schema: String,
    workspace: String,
    token: u64,
    issued: u64,
    expires: u64,
    policy: Policy,
}

#[derive(Deserialize)]
struct Policy {
    offline_seconds: u64,
}

/// A lease, counted down on the boot-time clock, which goes on while the machine sleeps and can't be set (clock_gettime(2)).
#[derive(Clone, Debug)]
pub struct Countdown {
    server: [u8; 32],
    workspace: String,
    token: u64,
    issued: u64,
    end: u64,
    /// What the time is at the least: Unix seconds, and when that was known.
    known: (u64, Duration),
}

impl Shown {
    /// Check whose it is, and begin to count.
    ///
    /// # Errors
    /// `Refused`: the server did not sign this, or it is another workspace's. `BadInput`.
    pub fn verify(&self, workspace: &str) -> Result<Countdown, Said> {
        let off = || Said::bad("The lease cannot be read.");
        let mut server = [0; 32];
        hex::decode_into(&self.server, &mut server)?;
        let untrusted_payload = hex::decode(&self.payload)?;
        let mut message = format!("twofold-signed-1 5 lease {} ", untrusted_payload.len()).into_bytes();
        message.extend_from_slice(&untrusted_payload);
        let key = UnparsedPublicKey::new(&ED25519, server);
        let signs = |signature: &String| {
            let mut bytes = [0; 64];
            hex::decode_into(signature, &mut bytes).is_ok() && key.verify(&message, &bytes).is_ok()
        };
        if !self.signatures.iter().take(8).any(signs) {
            return Err(Said::new(Code::Refused, "The lease is not signed by the server that this device trusts.")
                .safe("It was not used."));
        }
        let Claims { schema, workspace: whose, token, issued, expires, policy } =
            serde_json::from_slice(&untrusted_payload).map_err(|_| off())?;
        if !SCHEMAS.contains(&schema.as_str()) {
            return Err(off());
        }
        if whose != workspace {
            return Err(Said::new(Code::Refused, "The lease is another workspace's.").safe("It was not used."));
        }
        let contact = issued.saturating_add(policy.offline_seconds);
        let end = if expires > 0 { contact.min(expires) } else { contact };
        Ok(Countdown { server, workspace: whose, token, issued, end, known: (issued.max(self.seen), boot()) })
    }
}

impl Countdown {
    /// The same with a fresh lease. An older one says nothing.
    ///
    /// # Errors
    /// `Refused`: it is not of the server, workspace and holder that this one is of.
    pub fn renewed(&self, fresh: Self) -> Result<Self, Said> {
        if (fresh.server, &fresh.workspace) != (self.server, &self.workspace) || fresh.token < self.token {
            return Err(
                Said::new(Code::Refused, "The lease is not the one that goes on here.").safe("It was not used.")
            );
        }
        if fresh.issued < self.issued {
            return Ok(self.clone());
        }
        let (ours, its) = (self.at_least(fresh.known.1), fresh.known.0);
        Ok(Self { known: (ours.max(its), fresh.known.1), ..fresh })
    }

    /// What is left; zero at the end. The wall clock may shorten it, never lengthen it.
    pub fn left(&self) -> Duration {
        Duration::from_secs(self.end.saturating_sub(self.at_least(boot()).max(unix())))
    }

    /// Whether it has ended.
    pub fn over(&self) -> bool {
        self.left().is_zero()
    }

    /// How long the keys are held after that, while the machine is awake.
    pub fn moment(&self) -> Duration {
        Duration::from_secs(self.end.saturating_sub(self.issued) / 10).min(MOMENT)
    }

    fn at_least(&self, now: Duration) -> u64 {
        self.known.0.saturating_add(now.saturating_sub(self.known.1).as_secs())
    }
}

fn boot() -> Duration {
    time(ClockId::Boottime)
}

fn unix() -> u64 {
    time(ClockId::Realtime).as_secs()
}

fn time(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::{Value, json};

    fn server(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn lease(issued: u64, expires: u64, offline: u64) -> Value {
        json!({"schema": "twofold-lease-2", "workspace": "work", "token": 3, "issued": issued, "expires": expires,
            "policy": {"offline_seconds": offline, "more": []}, "title": "Work"})
    }

    fn shown(key: &Ed25519KeyPair, body: &Value, seen: u64) -> Shown {
        let payload = body.to_string().into_bytes();
        let mut message = format!("twofold-signed-1 5 lease {} ", payload.len()).into_bytes();
        message.extend_from_slice(&payload);
        Shown {
            payload: hex::encode(&payload),
            signatures: vec![hex::encode(&[0; 64]), hex::encode(key.sign(&message).as_ref())],
            server: hex::encode(key.public_key().as_ref()),
            seen,
        }
    }

    fn counted(body: &Value, seen: u64) -> Countdown {
        shown(&server(1), body, seen).verify("work").unwrap()
    }

    fn within(left: Duration, most: u64) -> bool {
        left <= Duration::from_secs(most) && left > Duration::from_secs(most - 3)
    }

    #[test]
    fn the_end_is_what_comes_first_of_the_lease_s_and_the_time_without_contact() {
        let now = unix();
        assert!(within(counted(&lease(now, 0, 500), 0).left(), 500));
        assert!(within(counted(&lease(now, now + 100, 500), 0).left(), 100));
        assert!(within(counted(&lease(now, now + 900, 500), 0).left(), 500));
        assert!(counted(&lease(now - 50, now - 1, 500), 0).over());
        assert_eq!(counted(&lease(now, 0, 500), 0).moment(), Duration::from_secs(50));
        assert_eq!(counted(&lease(now, 0, 604_800), 0).moment(), MOMENT);
    }

    #[test]
    fn what_is_left_counts_from_the_highest_time_that_is_known() {
        let now = unix();
        assert!(counted(&lease(now, now + 100, 500), now + 100).over(), "the clock was turned back");
        assert!(within(counted(&lease(now, now + 100, 500), now + 40).left(), 60));
        let ahead = counted(&lease(now + 5000, 0, 500), 0);
        assert!(within(ahead.left(), 500), "a lagging clock gains nothing: it was signed later than it shows");
    }

    #[test]
    fn nobody_but_the_server_lengthens_it() {
        let (now, good) = (unix(), server(1));
        let body = lease(unix(), 0, 500);
        let mut other = shown(&good, &body, 0);
        other.payload = hex::encode(lease(now, 0, 5_000_000).to_string().as_bytes());
        assert_eq!(other.verify("work").unwrap_err().code, Code::Refused);
        let mut other = shown(&server(2), &body, 0);
        other.server = hex::encode(good.public_key().as_ref());
        assert_eq!(other.verify("work").unwrap_err().code, Code::Refused);
        assert_eq!(shown(&good, &body, 0).verify("other").unwrap_err().code, Code::Refused);
        // A key of somebody's own is a lease of somebody's own: not this one's.
        let running = counted(&lease(now, 0, 500), 0);
        let foreign = shown(&server(2), &lease(now, 0, 5_000_000), 0).verify("work").unwrap();
        assert_eq!(running.renewed(foreign).unwrap_err().code, Code::Refused);
        let mut former = lease(now, 0, 5_000_000);
        former["token"] = json!(2);
        assert_eq!(running.renewed(counted(&former, 0)).unwrap_err().code, Code::Refused);
    }

    #[test]
    fn a_renewed_lease_goes_on_and_an_older_one_says_nothing() {
        let now = unix();
        let running = counted(&lease(now, 0, 100), 0);
        assert!(within(running.renewed(counted(&lease(now + 1, 0, 500), 0)).unwrap().left(), 500));
        assert!(within(running.renewed(counted(&lease(now - 9, 0, 5000), 0)).unwrap().left(), 100));
        let late = counted(&lease(now, 0, 500), now + 300);
        let again = late.renewed(counted(&lease(now + 1, 0, 500), 0)).unwrap();
        assert!(within(again.left(), 201), "what was known stays known");
    }

    #[test]
    fn what_is_no_lease_is_refused() {
        let good = server(1);
        for body in [json!([]), json!({"schema": "twofold-lease-2"}), {
            let mut other = lease(unix(), 0, 500);
            other["schema"] = json!("twofold-lease-9");
            other
        }] {
            assert!(shown(&good, &body, 0).verify("work").is_err());
        }
        for (field, value) in [("payload", "0"), ("payload", "zz"), ("server", "00")] {
            let mut off = shown(&good, &lease(unix(), 0, 500), 0);
            *(if field == "payload" { &mut off.payload } else { &mut off.server }) = value.into();
            assert!(off.verify("work").is_err());
        }
    }
}
