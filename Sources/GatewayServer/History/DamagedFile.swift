import GRDB
import GatewayWire
import Glibc
import Logging

/// A database that SQLite cannot read any more is kept, under another name.
enum DamagedFile {
    static func moveAside(_ path: String, logger: Logger) throws {
        let aside = "\(path).damaged-\(Timestamp.now.microseconds / 1_000_000)"
        guard rename(path, aside) == 0 else {
            throw GatewayError("\(path) is damaged and cannot be moved aside: \(String(cString: strerror(errno)))")
        }
        // They belong to the old file; a new one must not take them for its own.
        for suffix in ["-wal", "-shm"] { rename(path + suffix, aside + suffix) }
        logger.error(
            "history is damaged: moved aside, and a new one begun",
            metadata: ["path": .string(path), "moved_to": .string(aside)])
    }
}

extension DatabaseError {
    /// The file is no database any more.
    var isDamage: Bool { resultCode == .SQLITE_CORRUPT || resultCode == .SQLITE_NOTADB }

    /// For operators, without SQL.
    var reason: String {
        switch resultCode {
        case .SQLITE_FULL: "the disk is full"
        case .SQLITE_BUSY, .SQLITE_LOCKED: "another process has locked it"
        case .SQLITE_READONLY: "it cannot be written: read-only, or no permission"
        case .SQLITE_CANTOPEN: "it cannot be opened: no such folder, or no permission"
        case .SQLITE_CORRUPT, .SQLITE_NOTADB: "it is damaged"
        case .SQLITE_IOERR: "the disk fails: \(message ?? "input/output error")"
        default: message ?? "SQLite error \(resultCode.rawValue)"
        }
    }
}
