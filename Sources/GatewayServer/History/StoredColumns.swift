import GRDB

/// The columns of a row. A disk's fault may leave a value that SQLite takes and the schema does not allow: that is damage,
/// as what SQLite sees for itself.
struct StoredColumns {
    private let row: Row
    /// Of one request: no count of ours comes near, and as tenths of a millisecond it is 55 years.
    static let maxNumber = 1 << 44
    /// Of all requests together. What is added to it later fits too.
    static let maxTotal = 1 << 62

    init(_ row: Row) { self.row = row }

    /// - Throws: `DatabaseError` with `SQLITE_CORRUPT`, as all of these do.
    func value(_ column: String) throws -> DatabaseValue {
        guard let value = row[column] as (any DatabaseValueConvertible)? else {
            if row.hasColumn(column) { return .null }
            throw damage(column)
        }
        return value.databaseValue
    }

    func numberOrNil(_ column: String, upTo limit: Int = maxNumber) throws -> Int? {
        switch try value(column).storage {
        case .null: nil
        case .int64(let number) where (0...Int64(limit)).contains(number): Int(number)
        default: throw damage(column)
        }
    }

    func number(_ column: String, upTo limit: Int = maxNumber) throws -> Int {
        guard let number = try numberOrNil(column, upTo: limit) else { throw damage(column) }
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
