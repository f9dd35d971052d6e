//! From the bytes of a copy that is intact to a header whose fields are within their limits.

use uuid::Uuid;

use super::{
    DATA_OFFSET_STEP, DEFAULT_DATA_OFFSET, HOME_BLOCK_SIZE, HOME_CIPHER, Header, KWP_OVERHEAD, LISTED, MAX_BODY_LEN,
    MAX_DATA_OFFSET, OWNED, Shape, Slot, Slots, StoredState, Transition, WRAP_AES_256_KWP, as_damage, check_label,
    slots, state, transition,
};
use crate::error::{Context, Error, Kind, Result};
use crate::format::Reader;
use crate::format::component::ComponentKind;
use crate::format::disk_kind::{DiskKind, DiskShape};
use crate::format::names::DiskNames;
use crate::key::{KeyCheck, KeyId, ProviderName, WrappedDek};
use crate::sector::SectorSize;

/// Features that a component of this kind may have.
pub(super) fn known_features(kind: u8) -> u32 {
    let of_kind = if kind == ComponentKind::Home.code() { state::HAS_STATE | LISTED } else { 0 };
    transition::IN_TRANSITION | OWNED | of_kind
}

pub(super) fn decode_checked(codes: [u8; 2], features: u32, r: &mut Reader<'_>) -> Result<Header> {
    let sequence = r.u64()?;
    if sequence == 0 {
        return Err(Error::new(Kind::Corrupt, "header sequence 0, expected at least 1"));
    }
    let uuid = Uuid::from_bytes(r.array()?);
    if uuid.is_nil() {
        return Err(Error::new(Kind::Corrupt, "the nil UUID, expected one that names the component"));
    }
    let sector_size = r.u32()?;
    let dek_generation = r.u32()?;
    let data_offset = r.u64()?;
    let shape = decode_shape(codes, sector_size, data_offset)?;
    let body_len = r.u32()?;
    r.reserved(4)?;
    let body_len = usize::try_from(body_len)
        .ok()
        .filter(|&len| len <= MAX_BODY_LEN)
        .ok_or_else(|| Error::new(Kind::Corrupt, format!("header body of {body_len} bytes, at most {MAX_BODY_LEN}")))?;
    let mut body = Reader::new(r.bytes(body_len)?);
    r.reserved(MAX_BODY_LEN - body_len)?;
    let (label, disk_names) = decode_names(shape, &mut body)?;
    let slots = decode_slots(shape, &mut body)?;
    let has = |feature: u32| features & feature != 0;
    let transition = has(transition::IN_TRANSITION).then(|| Transition::decode(shape, &mut body)).transpose()?;
    let state = has(state::HAS_STATE).then(|| StoredState::decode(&mut body)).transpose()?;
    let is_home = shape == Shape::Home;
    let owner = (has(OWNED) && !is_home).then(|| decode_owner(&mut body)).transpose()?;
    let binds_disks = has(OWNED) && is_home;
    let lists_disks = has(LISTED);
    if lists_disks && !binds_disks {
        return Err(Error::new(Kind::Corrupt, "a home that lists its disks, which do not name it"));
    }
    body.end().context(|| "header body".into())?;
    Ok(Header {
        sequence,
        uuid,
        shape,
        dek_generation,
        label,
        disk_names,
        slots,
        transition,
        owner,
        binds_disks,
        lists_disks,
        state,
    })
}

fn decode_owner(body: &mut Reader<'_>) -> Result<Uuid> {
    let owner = Uuid::from_bytes(body.array()?);
    if owner.is_nil() {
        return Err(Error::new(Kind::Corrupt, "a disk of the nil UUID, expected that of its home"));
    }
    Ok(owner)
}

fn decode_shape(codes: [u8; 2], sector_size: u32, data_offset: u64) -> Result<Shape> {
    match (codes, DiskKind::of_code(codes[1])) {
        ([1, HOME_CIPHER], _) if sector_size == HOME_BLOCK_SIZE && data_offset == 0 => Ok(Shape::Home),
        ([1, HOME_CIPHER], _) => Err(Error::new(
            Kind::Corrupt,
            format!("home with blocks of {sector_size} and data at {data_offset}, expected {HOME_BLOCK_SIZE} and 0"),
        )),
        ([2, _], Some(kind)) => {
            let sector_size = SectorSize::new(sector_size).map_err(as_damage)?;
            let in_range = (DEFAULT_DATA_OFFSET..=MAX_DATA_OFFSET).contains(&data_offset);
            if !in_range || !data_offset.is_multiple_of(DATA_OFFSET_STEP) {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("data at {data_offset}, expected a multiple of 1 MiB from 8 MiB to 1 GiB"),
                ));
            }
            Ok(Shape::Disk(DiskShape { kind, sector_size, data_offset }))
        }
        ([kind, cipher], _) => Err(Error::new(
            Kind::Corrupt,
            format!("component kind {kind} with cipher {cipher}, expected 1 with 2 (home) or 2 with 1 (disk)"),
        )),
    }
}

fn decode_names(shape: Shape, body: &mut Reader<'_>) -> Result<(String, DiskNames)> {
    let label_len = usize::from(body.u16()?);
    let label = body.text(label_len, "label")?.to_owned();
    check_label(&label).map_err(as_damage)?;
    let mut patterns = Vec::new();
    for _ in 0..body.u8()? {
        let len = usize::from(body.u8()?);
        patterns.push(body.text(len, "disk name pattern")?.to_owned());
    }
    if shape != Shape::Home && !patterns.is_empty() {
        return Err(Error::new(Kind::Corrupt, "a disk with patterns of disk names, only a home has them"));
    }
    Ok((label, DiskNames::new(patterns).map_err(as_damage)?))
}

fn decode_slots(shape: Shape, body: &mut Reader<'_>) -> Result<Slots> {
    let count = usize::from(body.u8()?);
    slots::check_count(count).map_err(as_damage)?;
    let slot = |number| decode_slot(shape, body).context(|| format!("key slot {number}"));
    Slots::new((1..=count).map(slot).collect::<Result<_>>()?)
}

fn decode_slot(shape: Shape, body: &mut Reader<'_>) -> Result<Slot> {
    let wrap = body.u8()?;
    if wrap != WRAP_AES_256_KWP {
        return Err(Error::new(
            Kind::Corrupt,
            format!("wrap algorithm {wrap}, expected {WRAP_AES_256_KWP} (AES-256-KWP)"),
        ));
    }
    let len = usize::from(body.u8()?);
    let provider = ProviderName::new(body.text(len, "provider name")?).map_err(as_damage)?;
    let len = usize::from(body.u16()?);
    let key_id = KeyId::new(provider, body.text(len, "key id")?).map_err(as_damage)?;
    let check = KeyCheck(body.array()?);
    let len = usize::from(body.u8()?);
    let expected = shape.kind().dek_len() + KWP_OVERHEAD;
    if len != expected {
        return Err(Error::new(Kind::Corrupt, format!("wrapped DEK of {len} bytes, expected {expected}")));
    }
    Ok(Slot { key_id, check, wrapped: WrappedDek(body.bytes(len)?.to_vec()) })
}
