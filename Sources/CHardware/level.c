#include "CHardware.h"

_Thread_local uint8_t chw_thread_level;
