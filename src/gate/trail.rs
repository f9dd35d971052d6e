//! What an operation leaves in the event log.

use crate::error::{Error, Result};
use crate::event::{Event, EventName};
use crate::gate::{Object, Principal};

/// The events of one operation. It ends with one event for all of it; one that succeeds in parts has one for each part instead.
pub struct Trail {
    name: EventName,
    principal: Principal,
    whole: Event,
    in_parts: bool,
    is_counted: bool,
}

impl Trail {
    pub(super) fn new(name: EventName, principal: Principal, object: &Object) -> Self {
        Self { name, principal, whole: event(name, principal, object), in_parts: false, is_counted: false }
    }

    /// The event of the whole operation. What is known about the object goes into it, for a success and for a failure.
    pub fn event(&mut self) -> &mut Event {
        &mut self.whole
    }

    /// Says that a success is recorded part by part.
    pub fn in_parts(&mut self) {
        self.in_parts = true;
    }

    /// Says that a failure of the operation is one of too many of its kind: they are counted, and a later event says how many.
    pub fn counted(&mut self) {
        self.is_counted = true;
    }

    /// Records that a part is done.
    pub fn part(&mut self, object: &Object, describe: impl FnOnce(&mut Event)) {
        let mut event = self.event_of_part(object);
        describe(&mut event);
        event.done();
    }

    /// Records that a part has failed, while the operation continues.
    pub fn failed_part(&mut self, object: &Object, error: &Error) {
        self.event_of_part(object).failed(error);
    }

    fn event_of_part(&mut self, object: &Object) -> Event {
        self.in_parts();
        event(self.name, self.principal, object)
    }

    pub(super) fn end<T>(&self, result: &Result<T>) {
        match result {
            Ok(_) if self.in_parts => {}
            Err(_) if self.is_counted => {}
            _ => self.whole.outcome(result),
        }
    }
}

fn event(name: EventName, principal: Principal, object: &Object) -> Event {
    let mut event = Event::of(name);
    event.by(principal.uid());
    if matches!(principal, Principal::MountUser(_)) {
        event.through_mount();
    }
    object.describe(&mut event);
    event
}
