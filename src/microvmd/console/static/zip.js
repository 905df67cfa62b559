// Writes a zip of files that a browser was given, without compression: what is sent is local or
// compressed by nobody's need. Format: PKWARE's APPNOTE, sections 4.3.7 and 4.3.12.

const LIMIT = 65535; // entries; more would need ZIP64
const TABLE = Uint32Array.from({ length: 256 }, (_, number) => {
  let value = number;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = (value >>> 8) ^ TABLE[(value ^ byte) & 0xff];
  return (value ^ 0xffffffff) >>> 0;
}

function header(signature, extra, entry) {
  const bytes = new DataView(new ArrayBuffer(extra));
  bytes.setUint32(0, signature, true);
  const start = signature === 0x04034b50 ? 4 : 6;
  if (start === 6) bytes.setUint16(4, 0x031e, true); // made on UNIX: modes are told
  bytes.setUint16(start, 20, true);
  bytes.setUint16(start + 2, 0x0800, true); // names are UTF-8
  bytes.setUint16(start + 8, 0x21, true); // 1980-01-01: the same files make the same zip
  bytes.setUint32(start + 10, entry.crc, true);
  bytes.setUint32(start + 14, entry.size, true);
  bytes.setUint32(start + 18, entry.size, true);
  bytes.setUint16(start + 22, entry.name.length, true);
  return bytes;
}

// A browser knows no modes: what begins like a program may be run.
function mode(bytes) {
  const script = bytes[0] === 0x23 && bytes[1] === 0x21;
  const elf = bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46;
  return script || elf ? 0o100755 : 0o100644;
}

/** A Blob of [{path, file}]; files stay where they are and are read one at a time. */
export async function zip(files) {
  if (files.length > LIMIT) throw new Error(`More than ${LIMIT} files: send a zip instead.`);
  const parts = [];
  const central = [];
  let offset = 0;
  for (const { path, file } of [...files].sort((a, b) => (a.path < b.path ? -1 : 1))) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const name = new TextEncoder().encode(path);
    const entry = { name, size: bytes.length, crc: crc32(bytes) };
    parts.push(header(0x04034b50, 30, entry), name, file);
    const record = header(0x02014b50, 46, entry);
    record.setUint32(38, mode(bytes) * 65536, true);
    record.setUint32(42, offset, true);
    central.push(record, name);
    offset += 30 + name.length + bytes.length;
  }
  const size = central.reduce((sum, part) => sum + part.byteLength, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, offset, true);
  return new Blob([...parts, ...central, end], { type: "application/zip" });
}
