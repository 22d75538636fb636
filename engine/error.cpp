#include "error.h"

#ifndef BITREPLAY_DEVICE
#include <new>
#include <string>
#endif

namespace bitreplay {

size_t format_message(char* out, size_t size, const char* format, std::initializer_list<MessagePart> parts) {
  const MessagePart* part = parts.begin();
  size_t at = 0;
  const auto put = [&](char c) {
    if (at + 1 < size) out[at] = c;
    ++at;
  };
  for (; *format != '\0'; ++format) {
    if (format[0] != '{' || format[1] != '}' || part == parts.end()) {
      put(*format);
      continue;
    }
    ++format;
    if (part->text != nullptr) {
      for (const char* c = part->text; *c != '\0'; ++c) put(*c);
    } else {
      const bool negative = part->number < 0;
      uint64_t rest = negative ? -static_cast<uint64_t>(part->number) : static_cast<uint64_t>(part->number);
      char digits[20];
      int count = 0;
      do digits[count++] = static_cast<char>('0' + rest % 10);
      while ((rest /= 10) != 0);
      if (negative) put('-');
      while (count > 0) put(digits[--count]);
    }
    ++part;
  }
  if (size > 0) out[at < size ? at : size - 1] = '\0';
  return at + 1;
}

#ifndef BITREPLAY_DEVICE
void fail(Error error, const char* format, std::initializer_list<MessagePart> parts) {
  std::string text(format_message(nullptr, 0, format, parts), '\0');
  format_message(text.data(), text.size(), format, parts);
  text.pop_back();
  switch (error) {
    case Error::argument:
    case Error::classes: throw std::invalid_argument(text);
    case Error::environment:
    case Error::unsupported: throw std::runtime_error(text);
    case Error::cancelled: throw Cancelled();
    case Error::format:
    case Error::damaged: throw FileFault(text.c_str(), error == Error::damaged);
    case Error::memory: break;
  }
  throw std::bad_alloc();
}
#endif

}  // namespace bitreplay
