//! `twofold._core`: the Rust core's face in Python. Bulk calls let go of the interpreter's lock.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use twofold_chunks::folder::{self, Row};
use twofold_chunks::guide::Guide;
use twofold_chunks::seal::Secret;
use twofold_chunks::sealer::{Piece, Sealer as Stream};
use twofold_chunks::{Error, Id, Key, frames, patch, seal};

fn raise(why: Error) -> PyErr {
    match why {
        Error::Io(why) => why.into(), // the kind of OSError that its number means
        other => PyValueError::new_err(other.to_string()),
    }
}

#[pyclass]
struct Sealer(Mutex<Stream<File>>);

#[pymethods]
impl Sealer {
    #[new]
    #[pyo3(signature = (path, secret, known = Vec::new(), edges = Vec::new(), former = Vec::new(), level = seal::LEVEL))]
    fn new(
        path: PathBuf,
        secret: [u8; 32],
        known: Vec<(Key, Id, usize)>,
        edges: Vec<u64>,
        former: Vec<GivenRow>,
        level: u8,
    ) -> PyResult<Self> {
        let known: HashMap<_, _> = known.into_iter().map(|(key, id, stored)| (key, (id, stored))).collect();
        let guide = Guide::new(edges, taken(former));
        Ok(Self(Mutex::new(Stream::new(File::open(path)?, Secret::new(&secret), known, guide, level))))
    }

    fn next(&self, py: Python<'_>, window: usize) -> PyResult<Option<Batch>> {
        py.detach(|| {
            let mut stream = self.0.lock().map_err(|_| PyOSError::new_err("a former call failed"))?;
            let pieces = stream.next(window).map_err(raise)?;
            Ok(pieces.map(|pieces| Batch { pieces, end: stream.offset() }))
        })
    }

    #[getter]
    fn sha256<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let stream = self.0.lock().map_err(|_| PyOSError::new_err("a former call failed"))?;
        Ok(PyBytes::new(py, &stream.sha256()))
    }
}

#[pyclass(frozen)]
struct Batch {
    pieces: Vec<Piece>,
    #[pyo3(get)]
    end: u64,
}

#[pymethods]
impl Batch {
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> Vec<PyRow<'py>> {
        let bytes = |raw: &[u8]| PyBytes::new(py, raw);
        let row = |piece: &Piece| {
            (piece.row.offset, piece.row.size, piece.stored, bytes(&piece.row.id), bytes(&piece.row.key))
        };
        self.pieces.iter().map(row).collect()
    }

    fn frames<'py>(&self, py: Python<'py>, ids: Vec<Id>) -> PyResult<Bound<'py, PyBytes>> {
        let mut held: HashMap<_, _> = self.pieces.iter().map(|piece| (&piece.row.id, &piece.bytes)).collect();
        let mut chosen = Vec::with_capacity(ids.len());
        for id in &ids {
            match held.remove(id) {
                Some(sealed) if !sealed.is_empty() => chosen.push((id, sealed)),
                _ => return Err(PyValueError::new_err("this batch did not seal that chunk")),
            }
        }
        let length = chosen.iter().map(|(_, sealed)| frames::HEAD + sealed.len()).sum();
        PyBytes::new_with(py, length, |mut room| {
            py.detach(move || {
                for (id, sealed) in chosen {
                    let (place, rest) = room.split_at_mut(frames::HEAD + sealed.len());
                    frames::write(place, id, sealed);
                    room = rest;
                }
            });
            Ok(())
        })
    }
}

type GivenRow = (u64, usize, usize, Id, Key);

fn taken(rows: Vec<GivenRow>) -> Vec<Row> {
    rows.into_iter().map(|(offset, size, _, id, key)| Row { offset, size, id, key }).collect()
}

type PyRow<'py> = (u64, usize, usize, Bound<'py, PyBytes>, Bound<'py, PyBytes>);

#[pyfunction]
fn chunk_id<'py>(py: Python<'py>, sealed: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &seal::id(sealed))
}

#[pyfunction]
fn store_frames(py: Python<'_>, folder: PathBuf, untrusted_frames: &[u8]) -> PyResult<usize> {
    py.detach(|| folder::store(&folder, untrusted_frames)).map_err(raise)
}

#[pyfunction]
fn read_frames(py: Python<'_>, folder: PathBuf, ids: Vec<Id>) -> PyResult<Bound<'_, PyBytes>> {
    let body = py.detach(|| folder::read(&folder, &ids)).map_err(raise)?;
    Ok(PyBytes::new(py, &body))
}

#[pyfunction]
fn lacking(py: Python<'_>, folder: PathBuf, wanted: Vec<(Id, Option<u64>)>) -> Vec<Bound<'_, PyBytes>> {
    let missing = py.detach(|| folder::lacking(&folder, &wanted));
    missing.iter().map(|id| PyBytes::new(py, id)).collect()
}

#[pyfunction]
fn open_rows<'py>(
    py: Python<'py>,
    folder: PathBuf,
    rows: Vec<GivenRow>,
    start: u64,
    length: usize,
) -> PyResult<(Bound<'py, PyBytes>, Vec<Bound<'py, PyBytes>>)> {
    let rows = taken(rows);
    let mut bad = Vec::new();
    let plain = PyBytes::new_with(py, length, |plain| {
        bad = py.detach(|| folder::open(&folder, &rows, start, plain)).map_err(raise)?;
        Ok(())
    })?;
    let plain = if bad.is_empty() { plain } else { PyBytes::new(py, b"") };
    Ok((plain, bad.iter().map(|id| PyBytes::new(py, id)).collect()))
}

#[pyfunction]
fn make_patch<'py>(
    py: Python<'py>,
    folder: PathBuf,
    old: Vec<GivenRow>,
    new: Vec<GivenRow>,
    plain: &[u8],
    level: u8,
) -> PyResult<Option<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
    let made = py.detach(|| patch::make(&folder, &taken(old), &taken(new), plain, level)).map_err(raise)?;
    Ok(made.map(|sealed| (PyBytes::new(py, &sealed.id), PyBytes::new(py, &sealed.bytes))))
}

#[pyfunction]
fn apply_patch(py: Python<'_>, folder: PathBuf, patch: Id, old: Vec<GivenRow>, new: Vec<GivenRow>) -> PyResult<usize> {
    py.detach(|| twofold_chunks::patch::apply(&folder, &patch, &taken(old), &taken(new))).map_err(raise)
}

#[pyfunction]
fn sync(py: Python<'_>, folder: PathBuf) -> PyResult<()> {
    py.detach(|| folder::sync(&folder)).map_err(raise)
}

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::{
        Batch, Sealer, apply_patch, chunk_id, lacking, make_patch, open_rows, read_frames, store_frames, sync,
    };
}
