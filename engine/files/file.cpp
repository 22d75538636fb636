#include "file.h"

#include <cstring>

#include "random.h"
#include "sha256.h"

namespace bitreplay {
namespace {

constexpr char kZeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
static_assert(sizeof kZeros == 65);
constexpr int kMaxName = 80, kMaxDimensions = 8;

const Dtype* dtype_of(const Json& entry) {
  const Json code = entry.find("dtype");
  for (const Dtype& dtype : kDtypes) {
    if (code.equals(dtype.code)) return &dtype;
  }
  return nullptr;
}

// "int16 (4, 3)"; the sizes follow one by one.
class TypeText {
 public:
  explicit TypeText(const char* dtype) { add("{} (", dtype); }
  void add(int64_t size) {
    add(count_ == 0 ? "{}" : ", {}", size);
    ++count_;
  }
  const char* text() {
    add(count_ == 1 ? ",{}" : "{}", ")");
    return text_;
  }

 private:
  void add(const char* format, MessagePart part) {
    at_ += format_message(text_ + at_, sizeof text_ - at_, format, {part}) - 1;
    if (at_ > sizeof text_ - 1) at_ = sizeof text_ - 1;
  }
  char text_[64];
  size_t at_ = 0;
  int count_ = 0;
};

// Sums of these stand for sets of offsets.
uint64_t seam(uint64_t offset) { return mix(offset + 0x9e3779b97f4a7c15ULL); }

uint64_t header_length(const uint8_t* content) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | content[i];
  return length;
}

bool parse_header(const uint8_t* content, size_t length, Json& header, Json& words) {
  const auto* text = reinterpret_cast<const char*>(content) + 8;
  if (!Json::parse({text, text + length}, header) || !header.is_object()) return false;
  words = header.find("__metadata__");
  bool texts = words.is_object();
  for (Entries entries(words); entries.next();) texts = texts && entries.value.is_string();
  return texts;
}

}  // namespace

Label read_label(const void* content, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(content);
  Label label;
  Json header, words;
  if (size < 8) return label;
  const uint64_t length = header_length(bytes);
  if (length > kMaxHeader || length > size - 8 || !parse_header(bytes, static_cast<size_t>(length), header, words)) return label;
  for (const char* kind : kKinds) {
    if (words.find("bitreplay").equals(kind)) label.kind = kind;
  }
  const Json digest = words.find("digest");
  if (digest.is_string() && digest.copy(label.digest, 64) != 64) label.digest[0] = '\0';
  return label;
}

File::File(const void* content, size_t size, const char* kind, const char* where)
    : content_(static_cast<const uint8_t*>(content)), size_(size), kind_(kind), where_(where) {
  const uint64_t length = size < 8 ? 0 : header_length(content_);
  if (size < 8 || length > size - 8) {
    fail(Error::damaged, "{}: expected a bitreplay {}, got {} bytes that are not one; it may be cut short", {where, kind, size});
  }
  if (length > kMaxHeader) {
    fail(Error::damaged, "{}: expected a bitreplay {}, got a header of {} bytes, more than {}", {where, kind, length, kMaxHeader});
  }
  start_ = 8 + static_cast<size_t>(length);
  if (!parse_header(content_, static_cast<size_t>(length), header_, words_)) {
    fail(Error::damaged, "{}: expected a bitreplay {}, got a file without its header", {where, kind});
  }
  const Json its = words_.find("bitreplay"), version = words_.find("version"), digest = words_.find("digest");
  if (!its.equals(kind)) {
    fail(Error::format, "{}: expected a bitreplay {}, got {}; name the right file", {where, kind, its.exists() ? Excerpt(its).text() : "another file"});
  }
  if (!version.equals("1")) {
    fail(Error::format, "{}: expected version 1, got {}; install the bitreplay that wrote it", {where, Excerpt(version).text()});
  }
  if (!digest.is_string() || digest.copy(digest_, sizeof digest_) != sizeof digest_) {
    fail(Error::format, "{}: expected a digest of 64 hexadecimal digits; the file is damaged, use a copy", {where});
  }
}

void File::verify() {
  const uint8_t* at = content_ + 8;
  const uint8_t* const last = content_ + size_ - sizeof digest_;
  while (at <= last && std::memcmp(at, digest_, sizeof digest_) != 0) ++at;
  if (at > last) fail(Error::format, "{}: expected a digest of 64 hexadecimal digits; the file is damaged, use a copy", {where_});
  Sha256 sha;
  sha.add(content_, static_cast<size_t>(at - content_));
  sha.add(kZeros, sizeof digest_);
  at += sizeof digest_;
  sha.add(at, static_cast<size_t>(content_ + size_ - at));
  char actual[sizeof digest_];
  sha.hex(actual);
  if (std::memcmp(actual, digest_, sizeof digest_) != 0) {
    fail(Error::damaged, "{}: its content does not match its digest; it is damaged or cut short, use a copy", {where_});
  }
  // Pieces lie one behind the other, from the first byte to the last, just where as many begin as end at every offset, but for the two
  // outer ones: each piece goes forward, so they make one way.
  const uint64_t all = size_ - start_;
  uint64_t bytes = 0, seams = 0;
  for (Entries entries(header_); entries.next();) {
    if (entries.key.equals("__metadata__")) continue;
    const Place place = check_entry(entries.key, entries.value);
    bytes += place.end - place.begin;
    seams += seam(place.begin) - seam(place.end);
    ++tensors_;
#ifndef BITREPLAY_DEVICE
    std::string name(entries.key.copy(nullptr, 0), '\0');
    entries.key.copy(name.data(), name.size());
    entries_.emplace(std::move(name), entries.value);
#endif
  }
  if (bytes != all || seams != seam(0) - seam(all)) {
    fail(Error::format, "{}: its tensors cannot be read: expected data that begin where those before end, {} bytes in all", {where_, all});
  }
}

// What can be said of a tensor by itself.
File::Place File::check_entry(const Json& name, const Json& entry) const {
  const auto expect = [&](bool condition, const char* what) {
    if (!condition) fail(Error::format, "{}: its tensors cannot be read: {}: expected {}", {where_, Excerpt(name).text(), what});
  };
  expect(name.is_plain(kMaxName), "a name of at most 80 characters that can be printed");
  size_t fields = 0;
  for (Entries members(entry); members.next();) ++fields;
  const Json shape = entry.find("shape");
  expect(entry.is_object() && fields == 3 && entry.find("dtype").exists() && shape.exists() && entry.find("data_offsets").exists(),
         "dtype, shape and data_offsets");
  const Dtype* dtype = dtype_of(entry);
  expect(dtype != nullptr, "a known dtype");
  bool fit = shape.is_list(), empty = false;
  int dimensions = 0;
  uint64_t bytes = dtype->bytes;
  for (Entries sizes(shape); sizes.next(); ++dimensions) {
    int64_t value = 0;
    fit = fit && dimensions < kMaxDimensions && sizes.value.whole(0, static_cast<int64_t>(size_), value);
    empty = empty || value == 0;
    bytes = value > 0 && bytes > size_ / static_cast<uint64_t>(value) ? size_ + 1 : bytes * static_cast<uint64_t>(value > 0 ? value : 1);
  }
  expect(fit, "a shape of at most 8 sizes that the file can hold");
  Place place{};
  expect(place_of(entry, place), "two data_offsets inside the file");
  expect(place.end - place.begin == (empty ? 0 : bytes), "data that begin where those before end, of the size of its shape");
  expect((start_ + place.begin) % dtype->bytes == 0, "data at a multiple of the size of a value");
  return place;
}

Json File::json(const char* key) const {
  Json value;
  const Json text = words_.find(key);
  if (!text.is_string() || !Json::parse(text.string(), value)) fail(Error::format, "{}: {}: expected JSON", {where_, key});
  return value;
}

Json File::entry(const char* name) const {
#ifdef BITREPLAY_DEVICE
  return header_.find(name);
#else
  const auto found = entries_.find(name);
  return found == entries_.end() ? Json() : found->second;
#endif
}

void File::note_taken([[maybe_unused]] const char* name) {
  ++taken_;
#ifndef BITREPLAY_DEVICE
  entries_.erase(name);
#endif
}

bool File::place_of(const Json& entry, Place& place) const {
  const Json offsets = entry.find("data_offsets");
  if (!offsets.is_list()) return false;
  Entries both(offsets);
  int64_t begin = 0, end = 0;
  const auto most = static_cast<int64_t>(size_ - start_);
  const bool fit = both.next() && both.value.whole(0, most, begin) && both.next() && both.value.whole(begin, most, end) && !both.next();
  place = {static_cast<uint64_t>(begin), static_cast<uint64_t>(end)};
  return fit;
}

bool File::is_seam(uint64_t offset) const {
  if (offset == size_ - start_) return true;
  for (Entries entries(header_); entries.next();) {
    Place place{};
    if (place_of(entries.value, place) && place.begin == offset && place.end > offset) return true;
  }
  return false;
}

const uint8_t* File::take_raw(const char* name, Type type, std::initializer_list<int64_t> shape) {
  const Json found = entry(name);
  if (!found.exists()) fail(Error::format, "{}: tensor {} is missing", {where_, name});
  bool fit = has_type(name, type);
  Entries sizes(found.find("shape"));
  for (const int64_t expected : shape) {
    int64_t size = 0;
    fit = fit && sizes.next() && sizes.value.whole(expected, expected, size);
  }
  if (!fit || sizes.next()) {
    TypeText wanted(of_type(type).name), got(dtype_of(found)->name);
    for (const int64_t size : shape) wanted.add(size);
    int64_t size = 0;
    for (Entries its(found.find("shape")); its.next() && its.value.whole(0, INT64_MAX, size);) got.add(size);
    fail(Error::format, "{}: tensor {}: expected {}, got {}", {where_, name, wanted.text(), got.text()});
  }
  Place place{};
  place_of(found, place);
  note_taken(name);
  return content_ + start_ + place.begin;
}

std::span<const uint8_t> File::take_bytes(const char* name) {
  const int64_t bytes = length(name);
  if (!entry(name).exists()) return {};
  return take<uint8_t>(name, {bytes});
}

int64_t File::length(const char* name) const {
  Entries sizes(entry(name).find("shape"));
  int64_t length = 0;
  return sizes.next() && sizes.value.whole(0, int64_t{1} << 40, length) && !sizes.next() ? length : 0;
}

void File::finish() const {
  if (tensors_ != taken_) {  // so the search below is a short one
    const char* what = "further ones";
#ifndef BITREPLAY_DEVICE
    std::string first;
    for (const auto& [name, entry] : entries_) first = first.empty() || name < first ? name : first;
    what = first.empty() ? "that is there twice" : first.c_str();
#endif
    fail(Error::format, "{}: expected no tensor {}; the file does not fit its description", {where_, what});
  }
  for (Entries entries(header_); entries.next();) {
    Place place{};
    if (entries.key.equals("__metadata__") || !place_of(entries.value, place) || place.begin < place.end || is_seam(place.begin)) continue;
    fail(Error::format, "{}: its tensors cannot be read: {}: expected data that begin where those before end", {where_, Excerpt(entries.key).text()});
  }
}

}  // namespace bitreplay
