//! Published vectors: whoever writes another implementation from the paper must get these bytes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twofold_chunks::cut::{Cutter, Grain};
use twofold_chunks::folder::{Row, store};
use twofold_chunks::frames::push;
use twofold_chunks::patch;
use twofold_chunks::seal::{LEVEL, Opening, Sealing, Secret, id};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn secret() -> Secret {
    Secret::new(&std::array::from_fn(|at| u8::try_from(at).unwrap()))
}

/// A stream that any language makes in a line: byte n is the low byte of n * n / 7 + n.
fn stream(size: usize) -> Vec<u8> {
    (0..size as u64).map(|n| (n * n / 7 + n).to_le_bytes()[0]).collect()
}

#[test]
fn a_raw_chunk_is_these_bytes() {
    let sealed = Sealing::new().unwrap().seal(b"twofold", secret().key(b"twofold")).unwrap();
    assert_eq!(hex(&sealed.key), RAW_KEY);
    assert_eq!(hex(&sealed.bytes), RAW_BYTES);
    assert_eq!(hex(&sealed.id), RAW_ID);
}

#[test]
fn a_compressed_chunk_opens_from_these_bytes() {
    // Another zstd may compress otherwise, so that it is opening, not sealing, which is fixed here.
    let mut bytes = unhex(ZSTD_BYTES);
    let key = secret().key(&[b'a'; 4096]);
    let mut plain = [0; 4096];
    let name = id(&bytes);
    Opening::new().unwrap().open(&mut bytes, &name, &key, &mut plain).unwrap();
    assert_eq!(plain, [b'a'; 4096]);
}

/// Where chunks of a stream end, in blocks.
fn ends(grain: Grain, size: usize) -> Vec<usize> {
    let (spans, rest) = Cutter::new(&secret().cut_seed, grain).cut(&stream(size), true);
    assert_eq!(rest, size);
    spans.iter().map(|span| (span.offset + span.size) / 4096).collect()
}

#[test]
fn boundaries_are_these() {
    assert_eq!(ends(Grain::IMAGE, 4 << 20), IMAGE_BOUNDARIES);
    // What images were cut by at first.
    assert_eq!(ends(Grain { least: 4, normal: 16, seldom: 24, often: 6 }, 1 << 20), BOUNDARIES);
}

#[test]
fn a_patch_opens_from_these_bytes() {
    let folder = std::env::temp_dir().join(format!("twofold-vector-{}", std::process::id()));
    let plains = [[b'a'; 4096], [b'b'; 4096]];
    let chunks = plains.map(|plain| Sealing::new().unwrap().seal(&plain, secret().key(&plain)).unwrap());
    let [old, new] = chunks.clone().map(|chunk| [Row { offset: 0, size: 4096, id: chunk.id, key: chunk.key }]);
    let bytes = unhex(PATCH_BYTES);
    let mut frames = Vec::new();
    push(&mut frames, &chunks[0].id, &chunks[0].bytes);
    push(&mut frames, &id(&bytes), &bytes);
    std::fs::create_dir_all(&folder).unwrap();
    store(&folder, &frames).unwrap();
    let made = patch::make(&folder, &old, &new, &plains[1], LEVEL).unwrap().unwrap();
    let came = patch::apply(&folder, &id(&bytes), &old, &new);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(hex(&made.key), PATCH_KEY);
    assert_eq!(came.unwrap(), 1, "now it would be {}", hex(&made.bytes));
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

const PATCH_KEY: &str = "42053ad0df4b6018f7f3e3424acd25d96c5eba46a232d61d03e144a52c3847ee";
const PATCH_BYTES: &str =
    "d614614a2403c9a79ea151251fe27ae67028e01962313e0ce6eca79e729147e7e018286c4133feafe8fad3e06401";
const RAW_KEY: &str = "3625416dfdac5f4457b7432d4136e3a4122c7abb6fb9aa5f9574fd611047812b";
const RAW_BYTES: &str = "16f2a43c3cc960b140c47db84bae583d3739527cf019ea1f014a6631006c7289423abec4";
const RAW_ID: &str = "f9affc3531022623f12dc6ccd16a62a67f0105748a4a8206a251cf047d7d4020";
const ZSTD_BYTES: &str =
    "a8c920f8fa4edbc7478e46b57996aa76098642591d52430341597a31c1c7f9865e17005c0850942da3a555e2953a955b";
const BOUNDARIES: &[usize] = &[20, 36, 55, 71, 90, 106, 125, 141, 160, 176, 195, 211, 230, 246, 256];
const IMAGE_BOUNDARIES: [usize; 23] =
    [48, 92, 139, 183, 230, 274, 321, 365, 412, 456, 503, 547, 594, 638, 685, 729, 776, 820, 867, 911, 958, 1002, 1024];
