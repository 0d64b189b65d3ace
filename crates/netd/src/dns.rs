//! The guest's questions for names, and our answers: one question, A records, no compression but of the name itself (RFC 1035).

use std::net::Ipv4Addr;

use crate::policy::valid_name;

const HEAD: usize = 12;
const QUERY: u16 = 0x8000 | 0x7800; // QR and opcode: 0 in a question of the common kind
const ANSWER: u16 = 0x8080; // an answer, recursion available
const WANTS: u16 = 0x0100; // recursion desired, as it was asked
const A: u16 = 1;
const INTERNET: u16 = 1;
/// Addresses in one answer: it then fits the oldest client's 512 bytes.
const MOST: usize = 14;

/// What an answer says beside addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub enum Outcome {
    /// The name exists.
    Found = 0,
    /// We failed; ask again.
    Failed = 2,
    /// There is no such name.
    Unknown = 3,
}

/// A question that was understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    id: u16,
    wants: u16,
    /// Name, type and class as they came: an answer repeats them byte by byte.
    asked: Vec<u8>,
    /// In small letters, without a dot at its end; empty where it is no host's name.
    pub name: String,
    /// Whether it asks for IPv4 addresses.
    pub address: bool,
}

impl Question {
    /// Read one; `None` where it is none.
    pub fn read(untrusted_message: &[u8]) -> Option<Self> {
        let word = |at: usize| untrusted_message.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        let (id, flags) = (word(0)?, word(2)?);
        if flags & QUERY != 0 || word(4)? != 1 || word(6)? != 0 {
            return None;
        }
        let (mut at, mut name) = (HEAD, String::new());
        loop {
            let length = usize::from(*untrusted_message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = untrusted_message.get(at..at + length).filter(|_| length < 64)?;
            at += length;
            if at - HEAD > 254 {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            // A dot within a label is written as what no name has.
            name.extend(label.iter().map(|byte| match byte {
                b'.' | 0x80.. => '?',
                byte => char::from(byte.to_ascii_lowercase()),
            }));
        }
        let address = (word(at)?, word(at + 2)?) == (A, INTERNET);
        let asked = untrusted_message[HEAD..at + 4].to_vec();
        if !valid_name(&name) {
            name.clear();
        }
        Some(Self { id, wants: flags & WANTS, asked, name, address })
    }

    /// The answer.
    pub fn answer(&self, outcome: Outcome, addresses: &[Ipv4Addr], seconds: u32) -> Vec<u8> {
        let count = addresses.len().min(MOST);
        let mut made = Vec::with_capacity(HEAD + self.asked.len() + 16 * count);
        let flags = ANSWER | self.wants | outcome as u16;
        for word in [self.id, flags, 1, u16::try_from(count).unwrap_or(0), 0, 0] {
            made.extend_from_slice(&word.to_be_bytes());
        }
        made.extend_from_slice(&self.asked);
        for address in &addresses[..count] {
            made.extend_from_slice(&[0xc0, 0x0c]); // the name that was asked for
            made.extend_from_slice(&A.to_be_bytes());
            made.extend_from_slice(&INTERNET.to_be_bytes());
            made.extend_from_slice(&seconds.to_be_bytes());
            made.extend_from_slice(&4_u16.to_be_bytes());
            made.extend_from_slice(&address.octets());
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut made = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name {
            made.push(u8::try_from(label.len()).unwrap());
            made.extend_from_slice(label);
        }
        made.push(0);
        made.extend_from_slice(&kind.to_be_bytes());
        made.extend_from_slice(&[0, 1]);
        made
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let asked = question(&[b"WwW", b"good", b"org"], 1);
        let read = Question::read(&asked).unwrap();
        assert_eq!((read.name.as_str(), read.address), ("www.good.org", true));
        let answer = read.answer(Outcome::Found, &[Ipv4Addr::new(1, 2, 3, 4)], 60);
        assert_eq!(answer[..12], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[12..asked.len()], asked[12..]);
        assert_eq!(answer[answer.len() - 4..], [1, 2, 3, 4]);
        assert!(!Question::read(&question(&[b"a"], 28)).unwrap().address, "AAAA");
        assert!(read.answer(Outcome::Found, &[Ipv4Addr::LOCALHOST; 200], 60).len() <= 512);
    }

    #[test]
    fn what_no_host_is_called_has_no_name() {
        for labels in [&[&b"good.org"[..]][..], &[b"a b"], &[b"\xff"], &[b"a", b"\0"], &[]] {
            assert_eq!(Question::read(&question(labels, 1)).unwrap().name, "", "{labels:?}");
        }
    }

    #[test]
    fn what_is_no_question_is_none() {
        let good = question(&[b"a", b"org"], 1);
        for length in 0..good.len() {
            assert!(Question::read(&good[..length]).is_none(), "cut off at {length}");
        }
        for (at, byte) in [(2, 0x80), (2, 0x08), (5, 2), (5, 0), (7, 1), (12, 0xc0)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(Question::read(&bad).is_none(), "{byte} at {at}");
        }
        assert!(Question::read(&question(&[&[b'a'; 63][..]; 5], 1)).is_none(), "too long");
    }
}
