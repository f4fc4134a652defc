import DriverCore
import PCIBus

/// Why a file operation failed: the errno for the program, the sentence for the person who looks into `last_error`.
struct FileError: Error {
    var code: CInt
    var sentence: String

    init(_ code: CInt, _ sentence: String) {
        self.code = code
        self.sentence = sentence
    }

    init(_ error: StatusError) { self.init(error.status.code, error.sentence) }

    init(_ error: BusError) { self.init(error.code, error.sentence) }
}
