"""The records of a zip archive that npz files contain.

Format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.4.
"""

from struct import Struct

LOCAL = Struct("<4s5H3L2H")
CENTRAL = Struct("<4s6H3L5H2L")
END = Struct("<4s4H2LH")
END64 = Struct("<4sQ2H2L4Q")
LOCATOR64 = Struct("<4sLQL")

LOCAL_SIGNATURE = b"PK\3\4"
CENTRAL_SIGNATURE = b"PK\1\2"
END_SIGNATURE = b"PK\5\6"
END64_SIGNATURE = b"PK\6\6"
LOCATOR64_SIGNATURE = b"PK\6\7"
DESCRIPTOR_SIGNATURE = b"PK\7\x08"

STORED, DEFLATED = 0, 8

#: Flag bits 0, 6 and 13: the member, or the directory, is encrypted; 5: it is a patch of another one.
ENCRYPTED = 0x2061
#: Sizes and CRC are after the member.
HAS_DESCRIPTOR = 0x0008
UTF8 = 0x0800

#: Replaces a number that does not fit and is in the extra field of kind `ZIP64`.
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
ZIP64 = 1

#: An entry of the directory with 64-bit sizes and offset, without its name.
MAX_ENTRY_BYTES = CENTRAL.size + 4 + 24
