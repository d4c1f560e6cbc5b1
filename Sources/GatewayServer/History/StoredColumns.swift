import GRDB

/// The columns of a row. A disk's fault may leave a value that SQLite takes and the schema does not allow: that is damage,
/// as what SQLite sees for itself.
struct StoredColumns {
    private let row: Row
    /// So large that no time or count of ours comes near, and so small that sums and products of them fit: as tenths of a
    /// millisecond 2000 years, as microseconds 140.
    private static let maxNumber = 1 << 52

    init(_ row: Row) { self.row = row }

    /// - Throws: `DatabaseError` with `SQLITE_CORRUPT`, as all of these do.
    func value(_ column: String) throws -> DatabaseValue {
        guard let value = row[column] as (any DatabaseValueConvertible)? else {
            if row.hasColumn(column) { return .null }
            throw damage(column)
        }
        return value.databaseValue
    }

    func numberOrNil(_ column: String) throws -> Int? {
        switch try value(column).storage {
        case .null: nil
        case .int64(let number) where (0...Int64(Self.maxNumber)).contains(number): Int(number)
        default: throw damage(column)
        }
    }

    func number(_ column: String) throws -> Int {
        guard let number = try numberOrNil(column) else { throw damage(column) }
        return number
    }

    func text(_ column: String) throws -> String? {
        switch try value(column).storage {
        case .null: nil
        case .string(let text): text
        default: throw damage(column)
        }
    }

    private func damage(_ column: String) -> DatabaseError {
        DatabaseError(resultCode: .SQLITE_CORRUPT, message: "no such value can be in the column \(column)")
    }
}
