//! The names and numbers of KMIP that this client speaks (KMIP 1.4 section 9.1.3; KMIP 2.1 section 11).

#![allow(missing_docs, reason = "each is KMIP's name of the tag")]

use super::ttlv::Tag;

pub const ATTRIBUTE: Tag = Tag(0x42_0008);
pub const ATTRIBUTE_NAME: Tag = Tag(0x42_000a);
pub const ATTRIBUTE_VALUE: Tag = Tag(0x42_000b);
pub const BATCH_COUNT: Tag = Tag(0x42_000d);
pub const BATCH_ERROR_CONTINUATION_OPTION: Tag = Tag(0x42_000e);
pub const BATCH_ITEM: Tag = Tag(0x42_000f);
pub const COMPROMISE_OCCURRENCE_DATE: Tag = Tag(0x42_0021);
pub const CRYPTOGRAPHIC_ALGORITHM: Tag = Tag(0x42_0028);
pub const CRYPTOGRAPHIC_LENGTH: Tag = Tag(0x42_002a);
pub const CRYPTOGRAPHIC_USAGE_MASK: Tag = Tag(0x42_002c);
pub const KEY_BLOCK: Tag = Tag(0x42_0040);
pub const KEY_FORMAT_TYPE: Tag = Tag(0x42_0042);
pub const KEY_MATERIAL: Tag = Tag(0x42_0043);
pub const KEY_VALUE: Tag = Tag(0x42_0045);
pub const KEY_WRAPPING_DATA: Tag = Tag(0x42_0046);
pub const MAXIMUM_ITEMS: Tag = Tag(0x42_004f);
pub const NAME: Tag = Tag(0x42_0053);
pub const NAME_TYPE: Tag = Tag(0x42_0054);
pub const NAME_VALUE: Tag = Tag(0x42_0055);
pub const OBJECT_TYPE: Tag = Tag(0x42_0057);
pub const OPERATION: Tag = Tag(0x42_005c);
pub const PROTOCOL_VERSION: Tag = Tag(0x42_0069);
pub const PROTOCOL_VERSION_MAJOR: Tag = Tag(0x42_006a);
pub const PROTOCOL_VERSION_MINOR: Tag = Tag(0x42_006b);
pub const QUERY_FUNCTION: Tag = Tag(0x42_0074);
pub const REQUEST_HEADER: Tag = Tag(0x42_0077);
pub const REQUEST_MESSAGE: Tag = Tag(0x42_0078);
pub const REQUEST_PAYLOAD: Tag = Tag(0x42_0079);
pub const RESPONSE_HEADER: Tag = Tag(0x42_007a);
pub const RESPONSE_MESSAGE: Tag = Tag(0x42_007b);
pub const RESPONSE_PAYLOAD: Tag = Tag(0x42_007c);
pub const RESULT_MESSAGE: Tag = Tag(0x42_007d);
pub const RESULT_REASON: Tag = Tag(0x42_007e);
pub const RESULT_STATUS: Tag = Tag(0x42_007f);
pub const REVOCATION_REASON: Tag = Tag(0x42_0081);
pub const REVOCATION_REASON_CODE: Tag = Tag(0x42_0082);
pub const STATE: Tag = Tag(0x42_008d);
pub const SYMMETRIC_KEY: Tag = Tag(0x42_008f);
pub const TEMPLATE_ATTRIBUTE: Tag = Tag(0x42_0091);
pub const UNIQUE_BATCH_ITEM_ID: Tag = Tag(0x42_0093);
pub const UNIQUE_IDENTIFIER: Tag = Tag(0x42_0094);
pub const VENDOR_IDENTIFICATION: Tag = Tag(0x42_009d);
/// KMIP 2: instead of `TEMPLATE_ATTRIBUTE`, and around the attributes of a key.
pub const ATTRIBUTES: Tag = Tag(0x42_0125);
/// KMIP 2: the tag of an attribute that is asked for.
pub const ATTRIBUTE_REFERENCE: Tag = Tag(0x42_013b);
/// KMIP 2: the attribute that is added, or the new value of one.
pub const NEW_ATTRIBUTE: Tag = Tag(0x42_013d);

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Operation {
    Create = 0x01,
    Locate = 0x08,
    Get = 0x0a,
    GetAttributes = 0x0b,
    AddAttribute = 0x0d,
    ModifyAttribute = 0x0e,
    Activate = 0x12,
    Revoke = 0x13,
    Destroy = 0x14,
    Query = 0x18,
    DiscoverVersions = 0x1e,
}

/// `OBJECT_TYPE` of a symmetric key.
pub const SYMMETRIC: u32 = 2;
/// `CRYPTOGRAPHIC_ALGORITHM` of AES.
pub const AES: u32 = 3;
/// `CRYPTOGRAPHIC_USAGE_MASK` of Encrypt and Decrypt.
pub const ENCRYPT_DECRYPT: i32 = 0x04 | 0x08;
/// `KEY_FORMAT_TYPE` of a key's bytes as they are.
pub const RAW: u32 = 1;
/// `NAME_TYPE` of a text.
pub const UNINTERPRETED_TEXT: u32 = 1;
/// `QUERY_FUNCTION` that asks for the maker of a server.
pub const QUERY_SERVER_INFORMATION: u32 = 3;
/// `BATCH_ERROR_CONTINUATION_OPTION`: the items of a batch stand for themselves.
pub const CONTINUE: u32 = 1;
/// `RESULT_STATUS` of what was done.
pub const SUCCESS: u32 = 0;
/// `RESULT_STATUS` of what was refused.
pub const OPERATION_FAILED: u32 = 1;
