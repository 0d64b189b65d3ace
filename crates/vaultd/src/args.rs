//! What the verbs take (`docs/protocol.md`, chapter 4).

use serde::Deserialize;
use serde_json::Value;

use crate::image::ImageArgs;
use crate::lease::Shown;
use crate::opened::DeviceArgs;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub device: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resizing {
    pub device: String,
    pub size: u64,
    #[serde(default)]
    pub shrink: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewing {
    pub device: String,
    pub size: u64,
    pub read_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    pub note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    pub generation: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    pub device: String,
    pub since: u64,
    #[serde(default)]
    pub offset: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub data: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealing {
    pub identity: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub name: String,
    pub digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    pub ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    pub ids: Vec<String>,
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Touched {
    #[serde(default)]
    pub from: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    pub workspace: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithCode {
    pub workspace: String,
    pub keys: String,
    pub code: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wrapped {
    pub workspace: String,
    pub keys: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Creating {
    pub workspace: String,
    pub keys: String,
    pub devices: Vec<DeviceArgs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    pub workspace: String,
    pub keys: String,
    #[serde(default)]
    pub lease: Option<Shown>,
    #[serde(default)]
    pub accept: bool,
    #[serde(default)]
    pub image: Option<ImageArgs>,
    #[serde(default)]
    pub feed: bool,
}
