//! Bytes as small hex digits.

use crate::said::Said;

/// Two digits for each byte.
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| char::from(DIGITS[usize::from(half)])).collect()
}

/// The bytes.
///
/// # Errors
/// `BadInput`: an odd number of digits, or anything but small hex digits.
pub fn decode(untrusted_text: &str) -> Result<Vec<u8>, Said> {
    let mut out = vec![0; untrusted_text.len() / 2];
    decode_into(untrusted_text, &mut out)?;
    Ok(out)
}

/// The bytes, written in place, exactly as many as `out` has.
pub fn decode_into(untrusted_text: &str, out: &mut [u8]) -> Result<(), Said> {
    let digits = untrusted_text.as_bytes();
    if digits.len() != 2 * out.len() {
        return Err(Said::bad("Hex digits are missing."));
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(())
}

fn digit(character: u8) -> Result<u8, Said> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(Said::bad("This is no hex digit.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        for wrong in ["0", "0G", "AB", "é"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }
}
