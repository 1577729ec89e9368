//! ACPI, SMBIOS, E820, boot protocols, kernel unpacking: bytes in, bytes out.
