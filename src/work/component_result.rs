//! What was done to which component.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::format::header::ComponentKind;
use crate::vm::component::Component;

/// What work did to one component, `T` says of it. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ComponentResult<T> {
    /// Which one.
    #[serde(rename = "path")]
    pub component: Component,
    /// `home` or `disk`.
    pub kind: ComponentKind,
    /// Its UUID; absent when no copy of its header could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// What was done.
    #[serde(flatten)]
    pub done: T,
}

impl<T> ComponentResult<T> {
    /// Of a component whose UUID is known.
    pub fn new(component: &Component, uuid: Uuid, done: T) -> Self {
        Self { component: component.clone(), kind: component.kind(), uuid: Some(uuid), done }
    }

    /// Its UUID, for people.
    pub fn shown_uuid(&self) -> String {
        self.uuid.map_or_else(|| "no readable header".to_owned(), |uuid| uuid.to_string())
    }
}
