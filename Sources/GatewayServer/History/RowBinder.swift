import GRDB
import GRDBSQLite
import Glibc

/// Binds the values of a row, in their order, and inserts it, straight with SQLite: GRDB's arguments box each of them,
/// which costs as much as the insert itself.
struct RowBinder {
    private let statement: OpaquePointer
    private var index: CInt = 0

    init(_ statement: Statement) { self.statement = statement.sqliteStatement }

    mutating func bindNull() {
        index += 1
        sqlite3_bind_null(statement, index)
    }

    mutating func bind<Number: BinaryInteger>(_ number: Number?) {
        guard let number else { return bindNull() }
        index += 1
        sqlite3_bind_int64(statement, index, Int64(number))
    }

    /// A text with a NUL goes in as its bytes, as GRDB's strings end there; see ``TextColumn``.
    mutating func bind(_ text: String?) {
        guard var text else { return bindNull() }
        index += 1
        text.withUTF8 { bytes in
            let count = CInt(bytes.count)
            if memchr(bytes.baseAddress!, 0, bytes.count) != nil {
                sqlite3_bind_blob(statement, index, bytes.baseAddress, count, Self.copies)
            } else {
                bytes.withMemoryRebound(to: CChar.self) { characters in
                    _ = sqlite3_bind_text(statement, index, characters.baseAddress, count, Self.copies)
                }
            }
        }
    }

    mutating func bind(_ uuid: (high: UInt64, low: UInt64)) {
        index += 1
        withUnsafeBytes(of: (uuid.high.bigEndian, uuid.low.bigEndian)) { bytes in
            _ = sqlite3_bind_blob(statement, index, bytes.baseAddress, CInt(bytes.count), Self.copies)
        }
    }

    /// - Throws: ``DatabaseError``.
    func insert(_ db: Database) throws {
        let code = sqlite3_step(statement)
        defer { sqlite3_reset(statement) }
        guard code != SQLITE_DONE else { return }
        throw DatabaseError(resultCode: ResultCode(rawValue: code), message: db.lastErrorMessage)
    }

    /// SQLITE_TRANSIENT, a macro that Swift does not import: SQLite copies the bytes.
    private static let copies = unsafeBitCast(-1, to: sqlite3_destructor_type.self)
}
