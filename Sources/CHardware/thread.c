#include "CHardware.h"

#include <sys/prctl.h>

void chw_name_thread(const char *name) { (void)prctl(PR_SET_NAME, name); }
